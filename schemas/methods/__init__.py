"""The recipe sections of all generation methods, told apart by `method`. One module per method."""

from typing import Annotated

from pydantic import Field

from schemas.methods.agentwrite import AgentWrite
from schemas.methods.llama2_long import Llama2Long
from schemas.methods.long_alpaca import LongAlpaca
from schemas.methods.long_qa import LongQA

MethodConfig = Annotated[AgentWrite | Llama2Long | LongAlpaca | LongQA, Field(discriminator="method")]
