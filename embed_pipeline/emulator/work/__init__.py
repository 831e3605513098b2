"""Work beside the requests: fetching sources, reading headers, embedding, and upkeep."""
