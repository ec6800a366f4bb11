"""The recipe section `curate`: rules told apart by `rule`, one module of configs for each family."""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from schemas.curation.contamination import ContaminationConfig, ExcisionConfig
from schemas.curation.duplicates import Duplicates
from schemas.curation.language import LanguageConfig
from schemas.curation.pii import PiiConfig
from schemas.curation.quality import C4Config, C4LinesConfig, FineWebConfig, GopherConfig, RepetitionConfig
from schemas.model import Model, Positive

DocumentRule = (
    GopherConfig
    | RepetitionConfig
    | C4Config
    | FineWebConfig
    | C4LinesConfig
    | LanguageConfig
    | ContaminationConfig
    | ExcisionConfig
    | PiiConfig
)
Rule = Annotated[DocumentRule | Duplicates, Field(discriminator="rule")]


class Beam(Model):
    """Curation as an Apache Beam pipeline. `options`: those of the runner, as on its command line; every worker must
    see the workspace's folder under the same path."""

    type: Literal["beam"]
    options: tuple[str, ...] = ("--runner=DirectRunner", "--direct_running_mode=in_memory")


class Embedded(Model):
    """Processes of this machine. `processes`: default: as many as it has cores."""

    type: Literal["embedded"]
    processes: Positive | None = None


class Curate(Model):
    """What documents must be like, before anything is made from them. Every rule judges every document; the first that
    says no is the reason. Cleaners change what stays."""

    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]
    executor: Annotated[Embedded | Beam, Field(discriminator="type")] = Embedded(type="embedded")
    shard_bytes: Positive = 32_000_000  # of Parquet row groups in one unit of work

    @model_validator(mode="after")
    def _one_search(self) -> "Curate":
        if sum(isinstance(rule, Duplicates) for rule in self.rules) > 1:
            raise ValueError("the rule 'duplicates' may stand once: it compares all documents")
        return self

    @property
    def duplicates(self) -> Duplicates | None:
        return next((rule for rule in self.rules if isinstance(rule, Duplicates)), None)

    @property
    def document_rules(self) -> list[DocumentRule]:
        """The rules and cleaners that need one document only."""
        return [rule for rule in self.rules if not isinstance(rule, Duplicates)]


_RULE: TypeAdapter[Any] = TypeAdapter(Rule)


def parse_rule(section: dict[str, Any]) -> Any:
    return _RULE.validate_python(section)
