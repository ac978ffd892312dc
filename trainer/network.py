"""Ask once whether the Hugging Face hub can be reached, because its libraries retry for minutes."""

import os
import sys
from functools import cache

from huggingface_hub import constants, get_session

from trainer.data import say


@cache
def reach_hub() -> None:
    """Put the hub's libraries into offline mode if one request fails.

    Without a connection they would repeat the request for each of a model's files. Offline they
    take what was downloaded before, or fail at once.
    """
    if constants.HF_HUB_OFFLINE:
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception as error:  # what it raises depends on the version of the library
        say(f"{constants.ENDPOINT} cannot be reached ({error}): using what was downloaded before")
        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"  # for vLLM's process
        if "datasets" in sys.modules:
            sys.modules["datasets"].config.HF_HUB_OFFLINE = True
