"""State of the emulator: tasks, results, assets, uploads and the journal in one SQLite file, and its clock."""
