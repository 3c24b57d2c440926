"""The pages of a run: every figure there, everything foreign escaped, nothing that runs or loads."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from selfalign.calibration import Bin, folded, reliability, wilson_interval
from selfalign.config import Adapter, Campaign, Policy, Ppo, Train
from selfalign.records import Guarded, Look
from selfalign.stages import report
from selfalign.stages.report import guard, training, truth
from selfalign.stages.report.document import Dialogue, Paragraph, Table, fenced, markdown, to_html, to_markdown
from selfalign.stages.report.plots import Point, Series, line_chart, nice_step, reliability_chart, reliability_words
from selfalign.store import Run
from tests.cli.events import HOSTILE
from tests.cli.fabricate import make_judged_run, make_mixed_run, make_report, make_run

ATTACKS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "`````\n# x",
    "| a | b |",
    "[x](http://evil)",
    HOSTILE,
)


class Tags(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("report"), rejected=True)


def test_a_round_gets_its_report_pages_and_model_card(run: Run) -> None:
    names = {path.name for path in (run.path / "rounds" / "001").iterdir() if path.is_file()}
    assert {"report.json", "report.md", "report.html", "model_card.md"} <= names
    assert [found.round for found in report.read(run)] == [0, 1]
    assert run.verify() == []


def test_the_report_comes_back_as_it_was_written(run: Run) -> None:
    found = report.read(run)[1]
    assert found.candidates == {"candidates": 12, "duplicate": 1}
    assert found.discarded == {"tie": 1, "below_margin": 2}
    assert found.seconds == {"prompts": 2.5, "generate": 2.5, "judge": 2.5, "pairs": 2.5, "train": 9.0}
    assert report.read(run)[0].seconds["revise"] == 3.0  # of two steps
    assert found.gate.accepted is False


def test_rendering_again_changes_nothing(run: Run) -> None:
    before = {path: path.read_bytes() for path in run.path.rglob("*.md")} | {
        p: p.read_bytes() for p in run.path.rglob("*.html")
    }
    with run.lock():
        names = report.render(run)
    assert {run.path / name for name in names} == set(before)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_the_pages_say_what_happened(run: Run) -> None:
    for name in ("report.md", "report.html"):
        text = (run.path / name).read_text()
        assert "2 rounds evaluated, 1 accepted; the policy is that of round 0." in text
        assert "Round 1 was rejected: win rate 0.65" in text
        assert "0.650 (0.590 to 0.700)" in text
        assert run.view("rounds/001/policy").digest in text
    assert "<details><summary>Round 0<" in text and "<details open><summary>Round 1<" in text, "what went wrong is open"


def test_the_page_of_a_round_says_what_each_principle_did(tmp_path: Path) -> None:
    run = make_judged_run(tmp_path, rounds=1)
    with run.lock():
        report.write(run, make_report(run, 0, accepted=True))
        page = run.read_text("rounds/000/report.md")
        assert "## Principles" in page
        assert re.search(r"\| kind \| 360 \| 100.0% \| \d\d.\d% \| 100.0% \| 9\d.\d% \| \d\d.\d% \|", page)
        assert "unasked: was never put before the judge. What to do: tag prompts with poem" in page
        shard = run.path / "rounds/000/judgments/part-00000.parquet"
        shard.write_bytes(shard.read_bytes()[:-1])
        report.write(run, make_report(run, 0, accepted=True))
        assert "They could not be read: " in run.read_text("rounds/000/report.md")


def test_html_holds_no_script_and_loads_nothing(run: Run) -> None:
    text = (run.path / "report.html").read_text()
    page = Tags()
    page.feed(text)
    assert not page.tags & {"script", "img", "iframe", "object", "embed", "link", "base", "form", "a"}
    assert not {name for name in page.attributes if name.startswith("on") or name in ("href", "src", "style")}
    assert "default-src 'none'; style-src 'sha256-" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)


@pytest.mark.parametrize("attack", ATTACKS)
def test_foreign_text_stays_text(attack: str) -> None:
    blocks = [Paragraph(attack), Table((attack,), ((attack,),), attack), Dialogue(((attack, attack),))]
    page = Tags()
    page.feed(to_html(attack, blocks))
    assert not page.tags & {"script", "img"}
    lines = to_markdown(attack, blocks[:2]).splitlines()
    assert len([line for line in lines if line.startswith("|")]) == 3  # a table of one column, its rule and one row
    assert not any(re.search(r"(?<!\\)[<|]", line.strip("| ")) for line in lines if line.startswith("|"))


def test_a_fence_is_longer_than_any_in_the_text() -> None:
    assert fenced("a\n`````\nb").splitlines()[0] == "``````text"
    assert fenced("plain").splitlines() == ["```text", "plain", "```"]


def test_markdown_escapes_what_would_be_read_as_markup_and_no_more() -> None:
    assert markdown("0.58 (0.52 to 0.63), x-y: 5e-06") == "0.58 (0.52 to 0.63), x-y: 5e-06"
    assert markdown("# h") == r"\# h"
    assert markdown("1. one") == r"1\. one"
    assert markdown("see http://x") == r"see http\://x"


def test_the_card_names_origin_judge_data_gate_and_limits(run: Run) -> None:
    card = (run.path / "rounds/001/model_card.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    for said in (
        "REJECTED by the gate",
        "policy2, trained from policy1",
        "hash c0ffee",
        "self, pairwise-logprob",
        "## Limits",
    ):
        assert said in card
    assert "discarded: below margin" in card


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Rounds of demonstrations, rankings and pairs."""
    root = tmp_path_factory.mktemp("mixed")
    make_run(root)
    return make_mixed_run(root)


@pytest.mark.parametrize(
    ("number", "said", "unsaid"),
    [
        (0, ["6 demonstrations", "SFT, learning rate", "| reference | none |", ": loss 0.699 (1) to 0.68 (20)"],
         ["Rewards, by step", "replayed"]),
        (1, ["6 rankings", "KTO (beta 0.3), learning rate", "| reference | the policy before this round |",
             "Rewards, by step: chosen 0.01 (1) to 0.2 (20); rejected"], ["Reward accuracy", "replayed"]),
        (2, ["6 pairs", "DPO (sigmoid loss, beta 0.1)", "| replayed | 3 pairs of earlier rounds |",
             "Reward accuracy, by step: accuracy 0.505 (1) to 0.6 (20)"], []),
    ],
)  # fmt: skip
def test_a_page_says_how_its_round_was_trained(number: int, said: list[str], unsaid: list[str], mixed: Run) -> None:
    page = (mixed.path / f"rounds/{number:03d}/report.md").read_text()
    assert all(text in page for text in said)
    assert not any(text in page for text in unsaid)
    assert f"rounds/{number:03d}/policy" in page
    assert f"<td>{said[1].split(', ')[0]}" in (mixed.path / f"rounds/{number:03d}/report.html").read_text()


def test_the_page_of_a_run_names_the_algorithm_of_each_round(mixed: Run) -> None:
    page = (mixed.path / "report.md").read_text()
    for line in (
        "| 0 | accepted | sft | 6 demonstrations |",
        "| 1 | accepted | kto | 6 rankings |",
        "| dpo | 6 pairs |",
    ):
        assert line in page


def test_a_card_names_the_rounds_own_algorithm(mixed: Run) -> None:
    card = (mixed.path / "rounds/001/model_card.md").read_text()
    assert "tags: [selfalign, kto, constitutional-ai, rlaif]" in card
    assert "| training | KTO (beta 0.3), learning rate 5e-06, 1 epoch, all weights |" in card
    assert "| trained on | 6 rankings |" in card
    later = (mixed.path / "rounds/002/model_card.md").read_text()
    assert "| trained on | 6 pairs |" in later and "| replayed | 3 pairs of earlier rounds |" in later


@pytest.mark.parametrize(
    ("settings", "number", "words"),
    [
        ({"reference": "previous"}, 2, "the policy before this round"),
        ({"reference": "base"}, 2, "the base policy"),
        ({"reference": 0}, 2, "the policy of round 0"),
        ({"reference": 2}, 2, "the policy before this round"),
        ({"reference": "ema"}, 2, "the average of the base and the policies before this round (decay 0.5)"),
        ({"train": Train(algorithm="raft")}, 2, "none"),
        ({"reference": "none", "train": Train(loss="simpo")}, 2, "none"),
    ],
)
def test_references_in_words(settings: dict, number: int, words: str) -> None:
    assert training.reference(Campaign(**settings), number) == words


def test_losses_in_words() -> None:
    assert training.loss_name(Campaign(train=Train(loss={"sigmoid": 1.0, "nll": 0.2}))) == "sigmoid + 0.2 nll"
    assert training.loss_name(Campaign(train=Train(algorithm="kto"))) == "–"
    assert training.loss_name(Campaign(train=Train(algorithm="ppo"), ppo=Ppo(advantage="rloo"))) == "rloo"
    adapted = Campaign(train=Train(algorithm="sppo", epochs=2), policy=Policy(adapter=Adapter(rank=8)))
    assert training.method(adapted) == "SPPO (beta 0.1), learning rate 5e-06, 2 epochs, LoRA rank 8"


def test_curves_of_few_steps_and_of_none() -> None:
    assert training.curves([]) == []
    (chart,) = training.curves([{"step": 1, "loss": 0.5}])
    assert chart.words == "Training loss, by step: loss 0.5 (1)."


def test_a_long_curve_shows_the_means_of_stretches() -> None:
    steps = [{"step": step, "loss": float(step)} for step in range(1, 1001)]
    (chart,) = training.curves(steps)
    assert chart.svg.count("<circle") == 24
    assert chart.words == "Training loss, by step: loss 21.5 (1) to 984 (967)."


def on_rollouts(iterations: int) -> list[dict]:
    """The metrics of training on rollouts, four steps an iteration."""
    return [
        {
            "step": step + 1,
            "loss": 0.1,
            "iteration": step // 4,
            "objective/scores": 0.5 * (step // 4),
            "objective/rlhf_reward": 0.25 * (step // 4),
            "objective/kl": 2.0,
            "objective/entropy": 30.0,
            "policy/approxkl": 0.002 * (step % 4),
            "policy/clipfrac": 0.0,
            "rollout/mean_tokens": 20.0,
        }
        for step in range(4 * iterations)
    ]


def test_curves_of_rollouts_have_a_point_for_each_iteration() -> None:
    scores, kl, change, entropy, length = training.curves(on_rollouts(3))
    heading = "Scores of the reward model, by iteration: "
    assert scores.words == f"{heading}score 0 (0) to 1 (2); with the KL penalty 0 (0) to 0.5 (2)."
    assert scores.svg.count("<circle") == 3
    assert kl.words == "KL, nats per answer, by iteration: KL 2 (0) to 2 (2)."
    assert "KL, nats per token 0.003 (0) to 0.003 (2); share clipped 0 (0)" in change.words  # of all steps
    assert entropy.words.startswith("Entropy") and length.words.startswith("Length of rollouts")
    assert training.curves(on_rollouts(100))[0].svg.count("<circle") == 20  # the means of five each


def test_ppo_in_words() -> None:
    plain = Campaign(train=Train(algorithm="ppo"))
    method = (
        "PPO (gae, KL coefficient 0.05), learning rate 5e-06, 20 iterations of 4 epochs in 1 minibatch, all weights"
    )
    assert training.method(plain) == method
    steered = Campaign(train=Train(algorithm="ppo"), ppo=Ppo(advantage="rloo", samples=2, kl_target=6, iterations=1))
    words = "PPO (rloo, KL coefficient 0.05, steered towards a KL of 6), learning rate 5e-06, 1 iteration of 4 epochs"
    assert training.method(steered).startswith(words)


def test_a_chart_is_well_formed_and_within_its_frame() -> None:
    series = [
        Series("a & b", (Point(0, 0.4, 0.3, 0.5), Point(1, float("nan")), Point(2, 0.6))),
        Series("c", (Point(1, 0.5),)),
    ]
    svg = line_chart("title <x>", ["0", "1", "2"], series, limit=0.5)
    root = ElementTree.fromstring(svg)
    numbers = [
        float(value) for node in root.iter() for key in ("cx", "cy", "x1", "y1", "x2", "y2") if (value := node.get(key))
    ]
    assert numbers
    assert all(0 <= number <= 310 for number in numbers)
    assert len(root.findall(".//{*}circle")) == 2  # the value that is not a number is left out


@pytest.mark.parametrize("values", [[], [0.0], [5.0, 5.0], [1e-9, 2e-9], [-3.0, 4000.0]])
def test_a_chart_of_any_values_is_drawn(values: list[float]) -> None:
    points = tuple(Point(i, value) for i, value in enumerate(values))
    assert (
        ElementTree.fromstring(line_chart("t", [str(i) for i in range(len(values))], [Series("s", points)])) is not None
    )


SEEN = (Look(0, 0.5, 0.5, 0.5), Look(2, 0.62, 0.57, 0.66), Look(4, 0.41, 0.36, 0.46))
MADE = {at: {"iteration": at, "objective/scores": 0.2 * at, "objective/kl": 0.5 * at} for at in range(6)}
GOLD = {0: {"gold": 0.68}, 2: {"gold": 0.8}, 4: {"gold": 0.55}}


def test_the_guard_is_shown_beside_the_reward_with_what_was_kept_and_where_it_stopped() -> None:
    found = Guarded(SEEN, 2, "the reward is over-optimised", 5)
    root = ElementTree.fromstring(guard.chart(found, MADE, GOLD))
    words = [node.text for node in root.iter() if node.text]
    assert {"kept: 2", "stopped", "iteration, and under it the KL, nats per answer", "2.5", "■ gold"} <= set(words)
    kept, stopped = (root.find(f".//{{*}}line[@class='{name}']").get("x1") for name in ("kept", "stopped"))
    assert float(kept) == pytest.approx(42 + 254 * 2.5 / 6, abs=0.1)
    assert float(stopped) == pytest.approx(42 + 254 * 5.5 / 6, abs=0.1)
    assert len(root.findall(".//{*}circle")) == 6 + 3 and len(root.findall(".//{*}rect")) == 3
    assert len(root.findall(".//{*}line[@class='kept']")) == 2  # through both panels
    width, height = float(root.get("width")), float(root.get("height"))
    assert all(0 <= float(node.get(key, "0")) <= width for node in root.iter() for key in ("x", "cx", "x1", "x2"))
    assert all(0 <= float(node.get(key, "0")) <= height for node in root.iter() for key in ("y", "cy", "y1", "y2"))
    assert "iteration 4: win rate 0.410 (0.360 to 0.460), score 0.8, gold 0.550" in guard.words(found, MADE, GOLD)


def test_the_guard_in_words() -> None:
    assert guard.outcome(Guarded(SEEN, 2)) == (
        "The judge did not turn against the reward. It looked 3 times, and liked iteration 2 best: a win rate against "
        "the base of 0.620 (0.570 to 0.660)."
    )
    assert "stopped in iteration 5, and the weights of iteration 2 are kept: why." in guard.outcome(
        Guarded(SEEN, 2, "why", 5)
    )
    assert "the weights that the round began with are kept" in guard.outcome(Guarded(SEEN, 0, "why", 5))


def test_gold_of_iterates_is_no_policys() -> None:
    found = {"base": {"gold": 0.7}, "round 0": {"gold": 0.8}, "round 0, iteration 2": {"gold": 0.75}}
    assert truth.of_policies(found).keys() == {"base", "round 0"}
    assert truth.of_iterates(found, 0) == {2: {"gold": 0.75}} and truth.of_iterates(found, 1) == {}


GAPS = [0.2, -0.3, 0.9, 1.4, -1.1, 2.5, 3.0, -4.0, -4.0, -4.0, 9.0]


@pytest.mark.parametrize(
    ("bins", "floor"),
    [
        ((), 0.5),
        (reliability(folded(GAPS)), 0.5),
        (reliability(folded(GAPS), equal_mass=True), 0.5),
        (reliability(folded([0.0])), 0.5),
        (reliability(folded([99.0] * 3)), 0.5),
        ((Bin(0.0, 0.1, 0.04, 0.0, 12_345_678, wilson_interval(0, 12_345_678)),), 0.0),
    ],
)
def test_a_reliability_diagram_is_well_formed_and_within_its_frame(bins: tuple[Bin, ...], floor: float) -> None:
    root = ElementTree.fromstring(reliability_chart("t", bins, floor=floor))
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    for node in root.iter():
        left, right = (sum(float(node.get(key, "0")) for key in keys) for keys in (("x",), ("x", "width")))
        assert left >= 0
        assert right <= width or node is root
        assert all(0 <= float(node.get(key, "0")) <= width for key in ("cx", "x1", "x2"))
        assert all(0 <= float(node.get(key, "0")) <= height for key in ("y", "cy", "y1", "y2"))
        assert float(node.get("height", "0")) >= 0
    markers = len(root.findall(".//{*}circle")) + len(root.findall(".//{*}rect/{*}title"))
    assert markers == len(bins)


def test_a_reliability_diagram_shows_shares_intervals_counts_and_what_chance_does_not_explain() -> None:
    fair, off = (
        Bin(0.5, 0.6, 0.55, 0.5, 40, wilson_interval(20, 40)),
        Bin(0.9, 1.0, 0.95, 0.5, 1240, wilson_interval(620, 1240)),
    )
    root = ElementTree.fromstring(reliability_chart("reward model", (fair, off)))
    (point,) = root.findall(".//{*}circle")
    (square,) = [node for node in root.iter() if node.find("{*}title") is not None and node is not point]
    assert float(point.get("cx", "")) == pytest.approx(42 + 254 * 0.1, abs=0.1)
    assert square.get("class") == "b"
    assert float(square.get("y", "")) + 3.5 == pytest.approx(float(point.get("cy", "")), abs=0.1)  # both right by half
    words = [node.text for node in root.iter() if node.text]
    assert {"40", "1.2k", "too sure", "■ off by more"} <= set(words)
    assert "0.5 (0.352 to 0.648)" in words
    (diagonal,) = root.findall(".//{*}line[@class='limit']")
    assert float(diagonal.get("y1", "")) > float(diagonal.get("y2", ""))


@pytest.mark.parametrize("attack", ATTACKS)
def test_titles_of_charts_stay_text(attack: str) -> None:
    for svg in (reliability_chart(attack, ()), line_chart(attack, ["0"], [Series(attack, (Point(0, 1.0),))])):
        page = Tags()
        page.feed(svg)
        assert page.tags <= {"svg", "text", "line", "circle", "title"}
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", svg)


def test_a_reliability_diagram_in_words() -> None:
    bins = (Bin(0.5, 0.6, 0.55, 0.5, 1240, wilson_interval(620, 1240)),)
    assert reliability_words("Reliability", bins) == "Reliability: 0.55 sure, 0.50 right (1,240 pairs)."
    assert reliability_words("Reliability", ()) == "Reliability: no pairs."


@pytest.mark.parametrize(("rough", "step"), [(1.0, 1), (0.3, 0.5), (23, 25), (0.011, 0.02), (7, 10)])
def test_nice_steps(rough: float, step: float) -> None:
    assert nice_step(rough) == pytest.approx(step)


def test_a_run_without_reports_gets_no_pages(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "empty", "name: empty\n")
    with run.lock():
        assert report.render(run) == []
