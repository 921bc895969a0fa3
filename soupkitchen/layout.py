"""What the files of a run's folder are called."""

CONFIG = "config.yaml"
JOURNAL = "journal.jsonl"
EVALUATIONS = "evaluations"
TRAJECTORY = "trajectory.csv"
LEADERBOARD = "leaderboard.csv"
SOUP = "soup"
