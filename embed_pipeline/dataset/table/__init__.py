"""The compacted table `embeddings_table`: snapshots, compaction, retention, and publishing to Lance."""
