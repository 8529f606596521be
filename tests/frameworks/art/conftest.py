"""Before anything imports ART, which imports LiteLLM, which else fetches its price table from the network."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
