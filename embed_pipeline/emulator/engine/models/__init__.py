"""The engine `models`: small networks with weights from the package index, for the extra `embed-pipeline[models]`."""
