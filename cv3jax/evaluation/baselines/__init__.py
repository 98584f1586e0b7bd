"""Pictures of other models, which diffusers draws from folders on this machine."""
