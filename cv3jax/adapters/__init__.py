"""LoRA adapters: their files of four formats, what they hold, and their weights in a cascade."""
