"""What is read, and how it becomes ids: tasks, files, pictures, tokenizers."""

from dataclasses import dataclass, field
from typing import Final, Literal

from jgpt.check import require, unknown_name

COLUMNS: Final = {  # our names of columns or features, by the kind of examples they make
    "text": ("text", "id"),
    "qa": ("question", "answer", "references", "context", "choices", "category", "more", "steps", "id"),
    "chat": ("messages", "id"),
    "image": ("file", "image", "caption"),
}


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Which ids exist: one joint vocabulary of special, text and image ids."""

    text: Literal["bytes", "characters", "bpe"] = "bytes"
    bpe_vocab_size: int = 4096
    """Entries of a BPE trained on the run's training text."""
    bpe_across_words: bool = False
    """Entries of the BPE may span words, up to the end of a sentence."""
    path: str | None = None
    """bpe only: a tokenizer.json to use instead of training one."""
    image: Literal["auto", "none", "grey", "palette", "rgb", "learned"] = "auto"
    """Ids of pixels; auto = none without pictures, grey where no picture has colour, else palette.

    rgb: 8 bits of red, green and blue, one token each. learned: a tokenizer of `jgpt fit-image-tokenizer`."""
    image_levels: int = 16
    """Grey levels, or colours of the k-means palette, under auto at most; the other codes have none to choose."""
    image_path: str | None = None
    """learned only: folder that `jgpt fit-image-tokenizer` wrote."""

    def __post_init__(self) -> None:
        require(
            self.bpe_vocab_size > 256,
            f"tokenizer.bpe_vocab_size is {self.bpe_vocab_size}: 256 bytes come first; use more.",
        )
        require(
            not self.bpe_across_words or (self.text == "bpe" and self.path is None),
            f"tokenizer.bpe_across_words is on, but tokenizer.text is {self.text!r} and tokenizer.path {self.path!r}: only "
            "a BPE that this run trains has entries to choose; switch it off.",
        )
        require(
            self.path is None or self.text == "bpe",
            f"tokenizer.path {self.path!r} is a BPE, but tokenizer.text is {self.text!r}: use --tokenizer.text bpe.",
        )
        require(
            2 <= self.image_levels <= 65_536,
            f"tokenizer.image_levels is {self.image_levels}: must lie between 2 and 65536.",
        )
        require(
            self.image != "learned" or self.image_path is not None,
            "tokenizer.image is 'learned', but tokenizer.image_path names no folder: make one with "
            "`jgpt fit-image-tokenizer PATH --out FOLDER`, and give it as --tokenizer.image-path FOLDER.",
        )
        require(
            self.image_path is None or self.image == "learned",
            f"tokenizer.image_path {self.image_path!r} is a learned code, but tokenizer.image is {self.image!r}: use "
            "--tokenizer.image learned.",
        )


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """One kind of work in the mixture."""

    kind: Literal["auto", "text", "qa", "chat", "image"]
    """auto: what the path is recognised as."""
    source: str = "path"
    """Name in jgpt.data.sources.SOURCES, `tfds:NAME`, or `path` to read TaskConfig.path."""
    path: str | None = None
    """File or folder that replaces the source."""
    weight: float = 1.0
    """Share of the training rows, relative to the other tasks."""
    loss_weight: float = 1.0
    """Factor on the loss weight of this task's targets in training; scores ignore it."""
    start: float = 0.0
    """Share of the run's steps done before this task joins the mixture: what is learned best alone comes first."""
    categories: tuple[str, ...] = ()
    """qa only: of the data's categories those that this task takes; () = all. A second task with some of the categories of
    the first shows those more often, or, where the first has a later `start`, sooner. Another file (`jgpt evaluate --path`)
    is scored whole."""
    validation_fraction: float = 0.1
    """Share of documents held out where the source brings no split of its own."""
    show_choices: bool = True
    """qa only: a question with choices lists them before the answer; off = it is asked closed-book."""
    steps: bool = False
    """qa only: say what leads to the answer before it, step by step, as the data's steps (bAbI's supporting facts, a
    column of steps) teach it. Off = answers alone are trained."""
    condition: Literal["caption", "none"] = "caption"
    """image only: what a picture is drawn after. none = nothing, as in most published likelihoods."""
    condition_dropout: float = 0.0
    """image only: share of training pictures that are shown without their caption, for guidance in sampling."""
    on_long: Literal["error", "skip"] = "error"
    """What to do with an example that must stay whole and does not fit the context; skipped ones are counted."""

    def __post_init__(self) -> None:
        require(
            self.weight > 0, f"data.tasks.*.weight is {self.weight}: must be positive; drop the task to leave it out."
        )
        require(self.loss_weight > 0, f"data.tasks.*.loss_weight is {self.loss_weight}: must be positive.")
        require(0 <= self.start < 1, f"data.tasks.*.start is {self.start}: a share of the steps, in [0, 1).")
        require(
            0 <= self.condition_dropout < 1,
            f"data.tasks.*.condition_dropout is {self.condition_dropout}: a share of the pictures, in [0, 1).",
        )
        require(
            self.condition == "caption" or (self.kind in ("auto", "image") and self.condition_dropout == 0),
            f"data.tasks.*.condition is {self.condition!r} in a task of kind {self.kind!r} with condition_dropout "
            f"{self.condition_dropout}: only pictures have captions to leave out, and then there are none to drop; set it to "
            "'caption', or condition_dropout to 0.",
        )
        require(
            self.condition_dropout == 0 or self.kind in ("auto", "image"),
            f"data.tasks.*.condition_dropout is {self.condition_dropout} in a task of kind {self.kind!r}: only pictures "
            "are drawn with guidance; leave it at 0.",
        )
        require(
            not self.steps or self.kind in ("auto", "qa"),
            f"data.tasks.*.steps is on in a task of kind {self.kind!r}: only answers are led to in steps; leave it off.",
        )
        require(
            len(set(self.categories)) == len(self.categories),
            f"data.tasks.*.categories is {self.categories}: name each once.",
        )
        require(
            not self.categories or self.kind in ("auto", "qa"),
            f"data.tasks.*.categories is {self.categories} in a task of kind {self.kind!r}: only questions have categories; "
            "leave it out.",
        )
        require(
            self.show_choices or self.kind in ("auto", "qa"),
            f"data.tasks.*.show_choices is off in a task of kind {self.kind!r}: only questions have choices; leave it on.",
        )
        require(
            0 < self.validation_fraction < 1,
            f"data.tasks.*.validation_fraction is {self.validation_fraction}: must lie strictly between 0 and 1.",
        )


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How training pictures vary from epoch to epoch; held-out pictures never do. The seed is train.seed."""

    scale: float = 0.0
    """Pictures are enlarged by a random factor between 1 and 1 + scale, and cut back to size at a random place."""
    crop: int = 0
    """Pictures are moved by up to this many pixels each way, edges repeated."""
    flip: bool = False
    """Half of the pictures are mirrored left to right."""

    def __post_init__(self) -> None:
        require(0 <= self.scale <= 4, f"data.augment.scale is {self.scale}: must lie in [0, 4]; 0 is off.")
        require(self.crop >= 0, f"data.augment.crop is {self.crop}: must not be negative; 0 is off.")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The mixture of tasks and how it is read."""

    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    path: str | None = None
    """File or folder that replaces the source of the only task; of several it is read by those of source `path` that have no
    path of their own."""
    encoding: str = "utf-8"
    """Encoding of text files."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of columns or fields, ours to yours, where they differ: {"question": "frage", "answer": "antwort"}."""
    on_bad_record: Literal["error", "skip"] = "error"
    """A record that cannot be used: stop with file and line, or leave it out, counted and listed."""
    image_size: int | None = None
    """Pictures are scaled and cropped to squares of this side [pixels]; None = taken as they are."""
    image_mode: Literal["auto", "grey", "rgb"] = "auto"
    """Channels of pictures; auto = rgb where any of them has colour."""
    image_background: str = "white"
    """Colour behind transparent pixels: a name or #rrggbb."""
    image_threshold: int | Literal["random"] | None = None
    """Pixels at or above become 255, the others 0; None = grey and colour are kept. random: each becomes 255 with its
    brightness as the probability, as in binarised MNIST: training pictures anew every epoch, held-out ones once for all."""
    augment: AugmentConfig = AugmentConfig()
    tfds_dir: str | None = None
    """Folder of prepared TFDS data sets; None = $TFDS_DATA_DIR, then the TFDS default."""
    prefetch_batches: int = 4
    """Batches made ahead of the step by a background thread."""

    def __post_init__(self) -> None:
        require(
            self.image_size is None or self.image_size >= 1,
            f"data.image_size is {self.image_size}: must be at least 1, or None for pictures as they are.",
        )
        require(
            self.image_threshold in (None, "random") or 1 <= int(self.image_threshold) <= 255,
            f"data.image_threshold is {self.image_threshold}: must lie between 1 and 255 (128 is the middle), or be 'random' "
            "or None.",
        )
        known = {name for names in COLUMNS.values() for name in names}
        for ours in self.columns:
            require(ours in known, unknown_name("name of ours in data.columns", ours, known))
        require(self.prefetch_batches >= 1, f"data.prefetch_batches is {self.prefetch_batches}: must be at least 1.")
        for name in self.tasks:
            require(name.isidentifier(), f"data.tasks has a task named {name!r}: names must be Python identifiers.")
        starts = {name: task.start for name, task in self.tasks.items()}
        require(
            not starts or 0 in starts.values(), f"data.tasks.*.start is {starts}: at least one task must start at 0."
        )
