"""The mathematics of relay diffusion, as pure functions: schedule, denoiser, losses, sampler."""
