"""The recipe sections of all generation methods, told apart by `method`. One module per method."""

from typing import Annotated

from pydantic import Field

from schemas.methods.agentwrite import AgentWrite
from schemas.methods.long_qa import LongQA
from schemas.methods.self_lengthen import SelfLengthen

MethodConfig = Annotated[AgentWrite | LongQA | SelfLengthen, Field(discriminator="method")]
