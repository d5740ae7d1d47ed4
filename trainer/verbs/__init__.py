"""The verbs of the command line: each module adds its parser and runs its command.

They import the libraries behind them only when they run, for those take seconds to load.
"""

from trainer.verbs import (
    combine,
    compare,
    inspect,
    merge,
    plan,
    pretrain,
    resume,
    schema,
    sweep,
    train,
    verify,
)
from trainer.verbs.verb import Verb

VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        train.VERB,
        plan.VERB,
        resume.VERB,
        verify.VERB,
        combine.VERB,
        merge.VERB,
        inspect.VERB,
        compare.VERB,
        sweep.VERB,
        schema.VERB,
        pretrain.VERB,
    )
}
