"""The HTTP surface: routes, bodies on the wire, and what every request passes first."""
