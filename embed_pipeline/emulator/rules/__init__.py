"""The platform's rules as pure functions: requests, sources, bounds of media, rate limits."""
