"""What all parts of the configuration share."""

from typing import Annotated

from pydantic import ConfigDict, Field

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

Share = Annotated[float, Field(ge=0, lt=1)]
# Upper ends are what C's integers and float32 hold; no setting that makes sense comes near.
Positive = Annotated[int, Field(gt=0, lt=2**31)]
PositiveFloat = Annotated[float, Field(gt=0, le=1e30)]
