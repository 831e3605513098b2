"""The HTTP surface: routes, bodies on the wire, and the middleware around them."""
