"""What pre-flight, loop and export ask of an objective."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trainer.config import DataConfig
from trainer.data import Row
from understudy.prompt import PromptTemplate


class Example(Protocol):
    """A row as text: the split and the search for leaks read its prompt."""

    @property
    def prompt(self) -> str:
        """The rendered prompt."""

    @property
    def where(self) -> str:
        """`file:line`, for messages."""


class Batch(Protocol):
    """Examples as tensors."""

    @property
    def num_tokens(self) -> int:
        """Tokens without padding."""

    @property
    def num_terms(self) -> float:
        """What the loss is a sum over."""

    @property
    def where(self) -> tuple[str, ...]:
        """`file:line` of each example."""


class Objective(ABC):
    """One way to learn from rows: it owns everything between a row and a loss.

    A row becomes an example (`read`), an example token ids (`encode`), several of these a batch
    (`collate`), a batch a loss (`summed_loss`).
    """

    task: ClassVar[str]
    """PEFT's task type, which decides the model's class: see `trainer.model.CLASSES`."""
    formats: ClassVar[frozenset[str]] = frozenset({"completion", "chat"})
    """Kinds of rows that `read` takes, as `data.format` names them."""
    can_pack: ClassVar[bool] = False
    """Whether `collate_packed` may put several examples into a row."""
    scores: ClassVar[tuple[str, ...]] = ()
    """What `loop.metric` may name beside the loss."""
    generates: ClassVar[bool] = False
    """Whether the model answers prompts with text, which `trainer.generated` scores."""
    labels: tuple[str, ...] = ()
    """Names of the classes of a classification head, in its order."""

    @abstractmethod
    def target_columns(self, data: DataConfig) -> tuple[str, ...]:
        """Columns that hold what is learnt; the prompt must not read them."""

    @abstractmethod
    def read(
        self, rows: Sequence[Row], template: PromptTemplate, data: DataConfig, *, chat: bool
    ) -> list[Any]:
        """The example of each row. Raises DataError naming file, line and column."""

    def bound(self, train: Sequence[Any]) -> Self:
        """The objective with what it takes from the training examples. Raises DataError."""
        return self

    @abstractmethod
    def encode(self, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Any]) -> list[Any]:
        """Token ids of `examples`, in order. Raises DataError."""

    @abstractmethod
    def collate(self, examples: Sequence[Any], device: str) -> Any:
        """A batch of encoded examples, on `device`."""

    def collate_packed(self, examples: Sequence[Any], device: str, width: int) -> Any:
        """The same in fewer rows, for a model of hidden size `width`; see `trainer.packing`."""
        return self.collate(examples, device)

    @abstractmethod
    def summed_loss(self, model: Any, batch: Any) -> Tensor:
        """Loss summed over the batch's `num_terms` terms: float32, scalar."""

    def measure(self, model: Any, batch: Any) -> tuple[Tensor, list[Any]]:
        """The summed loss of a validation batch, and what `metrics` wants to know of it."""
        return self.summed_loss(model, batch), []

    def metrics(self, observed: Sequence[Any]) -> dict[str, float]:
        """Figures beside the validation loss, from what `measure` gave for all batches."""
        return {}

    @abstractmethod
    def logits(self, model: Any, batch: Any) -> Tensor:
        """What the model says of a batch: equal adapters give equal numbers."""
