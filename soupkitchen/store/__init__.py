"""What a run keeps on disk: its folder, its journal, what it scored. Knows no torch."""
