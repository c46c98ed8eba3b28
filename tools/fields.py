"""Which field of a shard set a command looks at."""

from __future__ import annotations

from headrace.pipeline.feeds import images
from headrace.shards import ShardSet
from headrace.tools.errors import UserError


def image_field(shards: ShardSet) -> str:
    """The field whose images a loader shows; see `headrace.pipeline.feeds.images.image_field`.

    Raises:
        UserError: if there is none, or it cannot be told which.
    """
    try:
        return images.image_field(shards)
    except ValueError as error:
        raise UserError(str(error)) from None
