"""The floors of xaibench: a package imports what stands on lower floors, and nothing beside or above it."""

LAYERS = [
    ("core",),
    ("data",),
    ("models",),
    ("suite", "forward"),
    ("methods", "evaluation"),
    ("metrics", "results"),
    ("runner",),
    ("api",),
    ("cli",),
]
FLOOR = {name: floor for floor, names in enumerate(LAYERS) for name in names}
