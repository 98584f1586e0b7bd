"""The names of the formats of adapters, in the order in which they are tried, and of their files.

Commands list them without loading what reads and writes them.
"""

FORMATS = ("native", "kohya", "peft", "diffusers")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # PEFT's
SINGLE = (WEIGHTS, "pytorch_lora_weights.safetensors")
OURS = ("adapter.safetensors", "lora/adapter.safetensors")  # of a fine-tune
FILES = (*SINGLE, *OURS)  # in a folder that holds an adapter
