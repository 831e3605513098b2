"""What the emulator keeps: tasks, results, assets, uploads and the journal in one SQLite file, and its clock."""
