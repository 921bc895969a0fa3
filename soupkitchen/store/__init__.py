"""The files of a run: folder, journal, evaluations. Imports no torch."""
