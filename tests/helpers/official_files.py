"""Make configurations with the keys of the released ones."""

import yaml


def official(kind: str, **changes) -> dict:
    """Return a configuration with the keys of the released ones.

    It has the micro preset's sizes; `changes` are given by dotted path.
    """
    relay = kind == "relay"
    name = "LinearRelayEDMSampler" if relay else "EulerEDMSampler"
    sampler = {
        "target": f"sgm.modules.diffusionmodules.sampling.{name}",
        "params": {
            "num_steps": 5 if relay else 4,
            "cfg_cond_scale": 6.5,
            "cfg_cond_embed_dim": 512,
            **({"partial_num_steps": 1} if relay else {}),
        },
    }
    content = {
        "args": {
            "sampling_image_size": 64 if relay else 32,
            **({"relay_model": True} if relay else {}),
        },
        "model": {
            "scale_factor": 0.25,
            "denoiser_config": {
                "params": {
                    "scaling_config": {
                        "target": "sgm.modules.diffusionmodules.denoiser_scaling.EpsScaling"
                    }
                }
            },
            "network_config": {
                "params": {
                    "model_channels": 32,
                    "channel_mult": [1, 1, 2],
                    "num_res_blocks": 1,
                    "num_head_channels": 16,
                    "attention_resolutions": [4, 2],
                    "transformer_depth": [1, 1, 1],
                    "cfg_cond_embed_dim": 512,
                }
            },
            "conditioner_config": {
                "params": {
                    "emb_models": [{"params": {"max_length": 77}}, {"params": {"outdim": 256}}]
                }
            },
            "first_stage_config": {"params": {"ddconfig": {"in_channels": 3}}},
            "sampler_config": sampler,
        },
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = content
        for parent in parents:
            node = node[parent]
        node[last] = value
    return content


def write_official(path, kind: str, **changes):
    path.write_text(yaml.safe_dump(official(kind, **changes)))
    return path
