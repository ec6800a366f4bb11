"""The recipe sections of all generation methods, told apart by `method`. One module per method."""

from typing import Annotated

from pydantic import Field

from schemas.methods.agentwrite import AgentWrite
from schemas.methods.context_recycling import ContextRecycling
from schemas.methods.long_qa import LongQA
from schemas.methods.verifiable import Verifiable

MethodConfig = Annotated[AgentWrite | ContextRecycling | LongQA | Verifiable, Field(discriminator="method")]
