"""The house rules, read off the syntax trees: who imports whom, what is forbidden, and what a suffix promises."""

import ast
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

import jgpt
from jgpt import axes, config

PACKAGE = Path(jgpt.__file__).parent

# Groups from left to right; a module imports from its left or from its own group. A folder stands for its modules.
ORDER = (
    "axes check layout batch entry runtime compiled interrupt manifest pace progress pictures sheet neighbours muon loss "
    "grading rollcall heartbeat simulated",
    "config tokenizers sampling filters checkpoint regular schema automaton",
    "presets configio data metrics interop render",
    "runfolder tasks model",
    "launchers sharding distributed optim decoder decode_loop speculative sampler sampler_batch beam likelihood image_fit",
    "state reading",
    "step choices growing completion meter",
    "show plan",
    "loaded",
    "compression gallery picture_scores surprise questions sampler_check serve",
    "evaluate opening",
    "report",
    "loop",
    "notebook",
    "verbs",
    "cli",
)
# Loader workers and `--help` must never open an accelerator.
WITHOUT_JAX = (
    "scores",
    "batch",
    "data",
    "tokenizers",
    "tasks",
    "config",
    "configio",
    "check",
    "sampling",
    "regular",
    "schema",
    "automaton",
    "entry",
    "runtime",
)
MAX_LINES = 400
LETTERS = {axis.letter for axis in axes.AXES.values()}
JAXTYPING = {"Array", "Float", "Float32", "Int", "Int32", "Integer", "Bool", "UInt8", "UInt32", "Key"}


def parse() -> dict[str, ast.Module]:
    trees = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if len(parts) > 1 and parts[-1] == "__init__":
            parts = parts[:-1]  # a package goes by its own name
        trees[".".join(parts)] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


TREES = parse()
MODULES = [name for name in TREES if not name.endswith("__init__")]


def imported(tree: ast.AST, *, deferred: bool) -> Iterator[str]:
    """Yield the full names a module imports; those inside functions and `if TYPE_CHECKING` only where `deferred`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif deferred or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.If):
            yield from imported(node, deferred=deferred)


def ours(tree: ast.AST, *, deferred: bool) -> set[str]:
    """Return the modules of jgpt a module imports, without the package's name."""
    found = set()
    for name in imported(tree, deferred=deferred):
        if name.startswith("jgpt."):
            name = name.removeprefix("jgpt.")
            found.add(name if name in TREES else name.rpartition(".")[0])
    return found - {""}


def group_of(module: str) -> int:
    folder = module.partition(".")[0]
    return next(i for i, group in enumerate(ORDER) if folder in group.split())


def test_every_module_has_a_place_in_the_order():
    named = " ".join(ORDER).split()
    assert sorted(named) == sorted({module.partition(".")[0] for module in MODULES})


@pytest.mark.parametrize("module", MODULES)
def test_imports_come_from_the_left(module: str):
    for other in ours(TREES[module], deferred=True):
        assert group_of(other) <= group_of(module), f"{module} imports {other}, which stands to its right in ORDER"


def test_imports_go_round_in_no_circle():
    left = {module: ours(TREES[module], deferred=True) & set(MODULES) for module in MODULES}
    while left:
        free = [module for module, needs in left.items() if not needs & left.keys()]
        assert free, f"these modules import each other: {left}"
        for module in free:
            del left[module]


def libraries(module: str, seen: set[str]) -> set[str]:
    """Return the libraries that importing a module loads, through the modules of jgpt it imports as well."""
    if module in seen:
        return set()
    seen.add(module)
    tree = TREES[module]
    own = {name.partition(".")[0] for name in imported(tree, deferred=False)}
    return own.union(*(libraries(other, seen) for other in ours(tree, deferred=False)))


@pytest.mark.parametrize("module", [m for m in MODULES if m.partition(".")[0] in WITHOUT_JAX])
def test_data_side_never_imports_jax(module: str):
    assert not libraries(module, set()) & {"jax", "flax", "optax", "orbax"}
    deferred = {name.partition(".")[0] for name in imported(TREES[module], deferred=True)}
    assert not deferred & {"jax", "flax", "optax", "orbax"}


@pytest.mark.parametrize("module", TREES)
def test_flax_stays_in_the_model(module: str):
    names = {name.partition(".")[0] for name in imported(TREES[module], deferred=True)}
    assert "flax" not in names or module.startswith("model.")


@pytest.mark.parametrize("module", TREES)
def test_no_assert_and_no_pickle(module: str):
    asserts = [node.lineno for node in ast.walk(TREES[module]) if isinstance(node, ast.Assert)]
    assert not asserts, f"{module} asserts in lines {asserts}: raise an error that names value and fix"
    names = {name.partition(".")[0] for name in imported(TREES[module], deferred=True)}
    assert not names & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_stay_short(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def public(tree: ast.AST) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    """Yield public functions and classes, and the public methods of the latter."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


@pytest.mark.parametrize("module", MODULES)
def test_what_is_public_has_a_docstring(module: str):
    assert ast.get_docstring(TREES[module]), f"{module} does not say what it owns"
    bare = [node.name for node in public(TREES[module]) if not ast.get_docstring(node)]
    assert not bare


def shapes(node: ast.expr) -> Iterator[list[str]]:
    """Yield the axes of every jaxtyping annotation in a union; what a Callable takes is not its own shape."""
    if isinstance(node, ast.BinOp):
        yield from shapes(node.left)
        yield from shapes(node.right)
    elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in JAXTYPING:
        shape = node.slice.elts[-1] if isinstance(node.slice, ast.Tuple) else node.slice
        if isinstance(shape, ast.Constant) and isinstance(shape.value, str):
            yield shape.value.split()


def annotated(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yield name and annotation of every argument and annotated variable."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation is not None:
            yield node.arg, node.annotation
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node.annotation


def disagreements(tree: ast.AST, letters: set[str]) -> list[str]:
    """Return the names whose axis suffix is not their annotation, letter by letter, or has a letter nobody defined."""
    wrong = []
    for name, annotation in annotated(tree):
        suffix = list(name.rpartition("_")[2]) if "_" in name else []
        is_suffix = any(letter.isupper() for letter in suffix)
        for shape in shapes(annotation):
            lettered = bool(shape) and all(len(axis) == 1 for axis in shape) and any(axis.isupper() for axis in shape)
            unknown = {axis for axis in shape if len(axis) == 1 and axis.isupper()} - letters
            if unknown or (lettered or is_suffix) and shape != suffix:
                wrong.append(f"{name}: {' '.join(shape)}")
    return wrong


@pytest.mark.parametrize("module", MODULES)
def test_suffix_agrees_with_annotation(module: str):
    assert not disagreements(TREES[module], LETTERS)


@pytest.mark.parametrize(
    "source",
    [
        'def f(x_BSD: Float[Array, "B D S"]): ...',
        'def f(x_BS: Float[Array, "B S D"]): ...',
        'def f(x: Float[Array, "B S D"]): ...',
        'class C:\n    x_BSD: Float[Array, "B S"]',
        'def f(x_BSD: Float[Array, "batch S D"] | None): ...',
        'def f(x_BSd: Float[Array, "B S D"]): ...',
        'def f(x_BZ: Float[Array, "B Z"]): ...',
    ],
)
def test_a_suffix_that_disagrees_is_found(source: str):
    assert disagreements(ast.parse(source), LETTERS)


def test_agreement_is_no_complaint():
    arguments = (
        'x_BSD: Float[Array, "B S D"] | None',
        'h_BSk: Float[Array, "B S k"]',
        'to_logits: Callable[[Float[Array, "N D"]], Any]',
        "num_rows: int",
    )
    assert not disagreements(ast.parse(f"def f({', '.join(arguments)}): ..."), LETTERS)


def test_letters_and_names_of_axes_are_distinct():
    assert len({axis.letter for axis in axes.AXES.values()}) == len(axes.AXES)
    assert all(name == axis.name for name, axis in axes.AXES.items())


def choices(owner: type, field: str) -> set[str]:
    """Return the values of a Literal field of a config."""
    return set(typing.get_args(typing.get_type_hints(owner)[field]))


def test_registries_hold_exactly_the_choices_of_the_config():
    from jgpt import optim
    from jgpt.model.attention import ATTENTION
    from jgpt.model.gpt import REMAT
    from jgpt.tasks.mixture import TASKS
    from jgpt.tokenizers.image import IMAGE_CODES
    from jgpt.tokenizers.text import TOKENIZERS

    assert set(TOKENIZERS) == choices(config.TokenizerConfig, "text")
    assert set(IMAGE_CODES) | {"auto"} == choices(config.TokenizerConfig, "image")
    assert set(TASKS) | {"auto"} == choices(config.TaskConfig, "kind")
    assert set(ATTENTION) | {"auto"} == choices(config.ModelConfig, "attention")
    assert set(REMAT) == choices(config.ModelConfig, "remat")
    assert set(optim.OPTIMIZERS) == choices(config.OptimConfig, "name")
    assert set(optim.SCHEDULES) == choices(config.OptimConfig, "schedule")
    for schedule in optim.SCHEDULES:
        optim.make_schedule(config.OptimConfig(schedule=schedule), 10)


def test_presets_are_named_after_their_functions_and_accept_every_field():
    from jgpt.presets import PRESETS

    for name, preset in PRESETS.items():
        assert preset.__name__ == name
        assert preset(num_layers=3, norm_epsilon=1e-6) == preset(norm_epsilon=1e-6, num_layers=3)
        assert preset(tie_embeddings=True).tie_embeddings and not preset(tie_embeddings=False).tie_embeddings
