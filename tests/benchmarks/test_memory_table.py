import re

from benchmarks import memory_table


def test_every_case_of_a_model_is_estimated(make_micro, monkeypatch):
    monkeypatch.setattr(memory_table, "RESOLUTIONS", (64, 128))
    monkeypatch.setattr(memory_table, "POLICIES", {"no": None})
    monkeypatch.setattr(memory_table, "build", lambda *_: make_micro())
    found = memory_table.estimates("micro")
    assert len(found) == 3 * 2 * 2 * 2
    lines = memory_table.table(found).splitlines()
    assert lines[0] == "| trains | batch | 64 | 128 |" and len(lines) == 14

    def case(method, batch=1, remat=False, side=128):
        return found[memory_table.Case(method, batch, remat, side, "no")]

    whole, lora = case("all weights"), case("LoRA, rank 16")
    assert lora.total < whole.total
    # Captions are read from the cache but for the new word.
    assert set(whole.weights) == set(lora.weights) == {"diffusion_model"}
    assert set(case("new word").weights) == {"diffusion_model", "text_encoder"}
    assert case("all weights", remat=True).activations < whole.activations
    assert whole.activations < case("all weights", batch=4).activations


def test_the_page_has_every_model_and_the_times_that_were_measured():
    text = memory_table.PAGE.read_text(encoding="utf-8")
    part = text.split(memory_table.BEGIN)[1].split(memory_table.END)[0]
    assert re.findall(r"^### (.*)$", part, re.M) == ["SD 1.x", "SD 2.x", "Time"]
    for method in memory_table.METHODS:
        assert len(re.findall(rf"^\| {method}", part, re.M)) >= 8
    assert part.strip().endswith(memory_table.times())
