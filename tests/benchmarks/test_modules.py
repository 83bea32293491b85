import importlib
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_every_benchmark_finds_what_it_imports():
    broken = []
    for path in sorted(BENCHMARKS.glob("*.py")):
        try:
            importlib.import_module(f"benchmarks.{path.stem}")
        except ModuleNotFoundError as error:
            # Only the peers' environment has these.
            if error.name not in ("torch", "diffusers", "peft", "transformers"):
                broken.append(f"{path.name}: {error}")
        except (ImportError, AttributeError) as error:
            broken.append(f"{path.name}: {error}")
    assert not broken
