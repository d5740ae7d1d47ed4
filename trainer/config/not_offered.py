"""PEFT's methods and variants of LoRA that are not offered, each with the reason and what to take
in its place."""

_LOW_RANK = (
    "it stores a low-rank update in fewer numbers, and would be served as the LoRA that it "
    "converts to (peft.convert_to_lora); take lora with a small rank"
)
_ROTATION = "the server has no form for rotated weights; take lora with use_dora"
_OTHER_FORM = "it changes weights in a form that the server does not compute; take lora"
_ROUTED = "it mixes several updates by the input, which the server does not; take lora"

NOT_OFFERED = {
    **dict.fromkeys(
        (
            "c3a", "delora", "fourierft", "gralora", "hira", "loha", "lokr", "miss", "psoft",
            "randlora", "shira", "tinylora", "unilora", "vblora", "vera", "waveft",
        ),
        _LOW_RANK,
    ),
    **dict.fromkeys(("boft", "hra", "oft", "road"), _ROTATION),
    **dict.fromkeys(
        (
            "adamss", "deft", "frod", "glora", "peanut", "pvera", "supertuning",
        ),
        _OTHER_FORM,
    ),
    **dict.fromkeys(("lily", "poly", "xlora"), _ROUTED),
    "adalora": "it drops ranks while it trains, by a schedule inside the loop; take lora",
    "adaption_prompt": "it is for Llama alone, and no server here runs it; take prefix_tuning",
    "beft": "it trains the biases of one projection, which few bases have; take bitfit",
    "cartridge": "it is served as the prefix that it is; take prefix_tuning with `init: text`",
    "cpt": "its prompts depend on labelled examples inside the context; take prompt_tuning",
    "multitask_prompt_tuning": (
        "it trains prompts of several tasks together, a request is of one; take prompt_tuning"
    ),
    "shadow": "it runs a second network beside the model, which the server does not; take lora",
    "alora": "its update starts inside a prompt, those served hold for all of it; take lora",
    "arrow": _ROUTED,
    "bdlora": "it is LoRA cut up for servers of several devices, ours has one; take lora",
    "kasa": "it cuts small directions out of the base, which every other adapter needs; take pissa",
    "monteclora": "its update is drawn anew at every pass, and an answer must repeat; take lora",
    "qalora": "PEFT has it for GPTQ bases alone; take lora, on nf4 or int8",
    "velora": (
        "it approximates gradients to save memory; take lora with gradient_checkpointing, which "
        "saves it exactly"
    ),
    "osf": "it trains most of the base's weights; take full, or layers",
}  # fmt: skip
"""By PEFT's name in lower case."""
