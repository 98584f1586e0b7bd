"""The mathematics of relay diffusion, as pure functions: schedule, denoiser, losses, sampler."""

# The names by which recipes choose: settings are checked by them before JAX is imported. The tables
# of `losses` and `sampler` have a row for each.
PREDICTIONS = ("eps", "v")
WEIGHTINGS = ("eps", "v", "min_snr", "truncated", "root_snr")
NORMS = ("l1", "l2", "huber", "pseudo_huber")
HUBER_SCHEDULES = ("constant", "exponential", "snr")
TIMESTEPS = ("uniform", "logit_normal")
FORMS = ("released", "paper")
BLURS = ("none", "linear", "sigma", "exp")
