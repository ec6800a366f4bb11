"""The recipe sections of all generation methods, told apart by `method`. One module per method."""

from typing import Annotated

from pydantic import Field

from schemas.methods.agentwrite import AgentWrite
from schemas.methods.context_recycling import ContextRecycling
from schemas.methods.llama2_long import Llama2Long
from schemas.methods.long_alpaca import LongAlpaca
from schemas.methods.long_cite import LongCite
from schemas.methods.long_qa import LongQA
from schemas.methods.longpo import LongPO
from schemas.methods.minimum_tuning import MinimumTuning
from schemas.methods.self_lengthen import SelfLengthen
from schemas.methods.verifiable import Verifiable
from schemas.methods.writing_dpo import WritingDPO

MethodConfig = Annotated[
    AgentWrite
    | ContextRecycling
    | Llama2Long
    | LongAlpaca
    | LongCite
    | LongQA
    | LongPO
    | MinimumTuning
    | SelfLengthen
    | Verifiable
    | WritingDPO,
    Field(discriminator="method"),
]
