"""The names of the formats of adapters, in the order in which they are tried.

Commands list them without loading what reads and writes them.
"""

FORMATS = ("native", "kohya", "peft", "diffusers")
