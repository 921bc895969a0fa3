"""The files of a run: its folder, its journal, its evaluations. Knows no torch."""
