"""What each command of `headrace` takes and does. They import when they run, so that help comes at once."""

from headrace.tools.commands import (
    bench,
    cache,
    compare,
    config,
    demo,
    doctor,
    embed,
    evaluate,
    export,
    inspect,
    methods,
    replay,
    report,
    runs,
    shard,
    show,
    tokenizer,
    train,
    verify,
)
from headrace.tools.commands.arguments import Command, nearest

COMMANDS: tuple[Command, ...] = (
    demo.COMMAND,
    shard.COMMAND,
    verify.COMMAND,
    inspect.COMMAND,
    show.COMMAND,
    doctor.COMMAND,
    methods.COMMAND,
    tokenizer.COMMAND,
    config.COMMAND,
    train.COMMAND,
    replay.COMMAND,
    evaluate.COMMAND,
    embed.COMMAND,
    export.COMMAND,
    bench.COMMAND,
    report.COMMAND,
    runs.COMMAND,
    compare.COMMAND,
    cache.COMMAND,
)

__all__ = ["COMMANDS", "Command", "nearest"]
