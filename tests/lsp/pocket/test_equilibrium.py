"""The game solved: three queries by hand, properties, and what is known of the shipped base.

By hand (docs/game.md has the same). The Challenger's first letter is c with .9; then ``copy `` is
sure, and the argument is a, b or c with 5/9, 3/9, 1/9:

    query    pi_ref   p      with e^(1/beta_Sol) = 3: V* = 3p / (1 + 2p), soft = beta ln(1 + 2p)
    copy a   .5       3/4    .9                        ln 2.5 / ln 3 = .834044
    copy b   .3       1/2    .75                       ln 2   / ln 3 = .630930
    copy c   .1       1/4    .5                        ln 1.5 / ln 3 = .369070
    illegal  .1

Against the reference's own Solver, V = p, with e^(1/beta_Ch) = 16, weights are pi_ref 16^-V:
.5/8 = .0625, .3/4 = .075, .1/2 = .05 and .1: in all .2875.
"""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from lsp.losses import kl_loss, kl_per_token, policy_loss
from lsp.pocket.equilibrium import (
    Game,
    Interval,
    Stakes,
    asked_A,
    best_response,
    gap,
    kl,
    per_token,
    qualities_Q3,
    rewards_Q3,
    soft_value,
    worth,
)
from lsp.pocket.exact import COLUMNS, SHIPPED
from lsp.pocket.language import FAMILIES, Task, legal_queries, verify
from lsp.pocket.tables import AnsweredTable, AskedTable, asked_table, read_script

TASKS = [Task("copy", letter) for letter in "abc"]
STAKES = Stakes(1 / math.log(16), 1 / math.log(3), 0.0)


def logs(*values):
    return torch.tensor(values).double().log()


def small_tree(first=0.9, letters=(5 / 9, 3 / 9, 1 / 9)):
    words = {"": {"c": math.log(first)}}
    words |= {"copy "[:i]: {"copy "[i]: 0.0} for i in range(1, 5)}
    ends = torch.full((3, 4), -torch.inf).double()
    ends[:, -1] = 0.0
    return AskedTable(words, {"copy": [logs([*letters, 0.0]).reshape(1, 4), ends]})


def answers(*right, echo=0.0):
    return AnsweredTable(logs(*right), logs(*[echo] * len(right)))


REFERENCE_Q3 = torch.stack(
    [logs(0.75, 0.5, 0.25), logs(0.0, 0.0, 0.0), logs(0.25, 0.5, 0.75)], dim=1
)


@pytest.fixture
def game():
    return Game(STAKES, TASKS, small_tree(), answers(0.75, 0.5, 0.25))


def test_the_solvers_best_response_by_hand(game):
    found = game.best_solver_Q3.exp()
    assert found[:, 0].tolist() == pytest.approx([0.9, 0.75, 0.5])
    assert found.sum(1).tolist() == pytest.approx([1, 1, 1])
    soft = soft_value(REFERENCE_Q3, torch.tensor([1.0, 0.0, 0.0]), STAKES.beta_solver)
    assert soft.tolist() == pytest.approx([0.834044, 0.630930, 0.369070], abs=1e-6)


def test_gaps_by_hand(game):
    """The reference plays itself. Challenger: its worth is -(.5 x .75 + .3 x .5 + .1 x .25) = -.55,
    the best one's ln .2875 / ln 16 = -.449592. Solver: soft - p is .084044, .130930, .119070."""
    played = game.played(game.asked, game.answered)
    assert played["challenger_gap"] == pytest.approx(0.55 - 0.449592, abs=1e-6)
    assert played["solver_gap"] == pytest.approx(
        0.5 * 0.084044 + 0.3 * 0.130930 + 0.1 * 0.119070, abs=1e-6
    )
    assert played["nash_conv"] == pytest.approx(0.100408 + 0.093208, abs=2e-6)
    assert played["challenger_kl"] == played["solver_kl"] == 0
    assert played["nash_conv_low"] == played["nash_conv"] == played["nash_conv_high"]


def test_the_challengers_best_response_by_hand(game):
    earned = game.challenger_earns_A(REFERENCE_Q3)
    assert earned.value.tolist() == pytest.approx([-0.75, -0.5, -0.25, 0])
    best = best_response(game.reference_A, earned.value, STAKES.beta_challenger).exp()
    expected = [0.0625 / 0.2875, 0.075 / 0.2875, 0.05 / 0.2875, 0.1 / 0.2875]
    assert best.tolist() == pytest.approx(expected)
    assert 1 - best[-1].item() == pytest.approx(0.652174, abs=1e-6)


def test_what_both_come_to_by_hand(game):
    """V* = .9, .75, .5: weights .5 x 16^-.9 = .041235, .3/8 = .0375, .1/4 = .025 and .1, so the
    Gibbs form leaves .103735 / .203735 of legal queries."""
    gibbs, _ = game.equilibrium()
    assert 1 - gibbs[-1].exp().item() == pytest.approx(0.103735 / 0.203735, abs=1e-5)
    predicted = game.predicted()
    assert predicted["legal_gibbs"] == pytest.approx(0.509166, abs=1e-5)
    assert predicted["accuracy"] == pytest.approx((0.9 + 0.75 + 0.5) / 3)


def test_the_fixed_point_of_the_gradient_is_another_by_hand(game):
    """Against V = p. At the argument a, b, c weigh 5/9 x 1/8, 3/9 x 1/4, 1/9 x 1/2 = 5, 6, 4 of
    72, so .333, .4, .267, and -V is -.516667 on average there. At the first letter c weighs
    .9 x 16^-.516667 = .214839 and the rest .1: .682378 is legal, where the Gibbs form has .652174
    since it also counts the KL that the argument costs."""
    earned = torch.tensor([-0.75, -0.5, -0.25, 0.0]).double()
    beta = STAKES.beta_challenger
    found = asked_A(per_token(game.asked, earned, beta)).exp()
    assert (found[:3] / found[:3].sum()).tolist() == pytest.approx([5 / 15, 6 / 15, 4 / 15])
    assert 1 - found[3].item() == pytest.approx(0.682378, abs=1e-5)
    gibbs = best_response(game.reference_A, earned, beta).exp()
    assert 1 - gibbs[3].item() == pytest.approx(0.652174, abs=1e-6)
    # Without a second level the two are one.
    flat = small_tree(first=1.0)
    flat_gibbs = best_response(asked_A(flat), earned, beta).exp()
    assert torch.allclose(asked_A(per_token(flat, earned, beta)).exp(), flat_gibbs, atol=1e-9)


@pytest.mark.parametrize("estimator", ["k2", "exact"])
def test_the_expected_gradient_of_the_loss_in_use_is_zero_there(game, estimator):
    """All strings of the small tree, each weighed with its probability, through lsp.losses."""
    beta, earned = STAKES.beta_challenger, torch.tensor([-0.75, -0.5, -0.25, 0.0]).double()
    ref_first, ref_letter = logs(0.9, 0.1), logs(5 / 9, 3 / 9, 1 / 9)

    def gradient(log_A):
        first = torch.stack([log_A[:3].logsumexp(0), log_A[3]]).requires_grad_()
        letter = log_A[:3].clone().requires_grad_()
        p_first, p_letter = first.log_softmax(0), letter.log_softmax(0)
        loss = torch.zeros(()).double()
        for row in range(4):
            at = slice(row // 3, row // 3 + 1)  # c, or what leaves the language
            steps = [(p_first[at], ref_first[at], p_first[None], ref_first[None])]
            if row < 3:
                one = slice(row, row + 1)
                steps.append((p_letter[one], ref_letter[one], p_letter[None], ref_letter[None]))
            weight = sum(step[0] for step in steps).exp().detach()
            for own_T, ref_T, own_TV, ref_TV in steps:
                loss = loss + policy_loss(own_T, weight * earned[row])
                kl_T = kl_per_token(own_T, ref_T, estimator, own_TV, ref_TV)
                loss = loss + kl_loss(kl_T, weight, beta)
        loss.backward()
        return torch.cat([first.grad, letter.grad]).abs().max().item()

    assert gradient(asked_A(per_token(game.asked, earned, beta))) < 1e-8
    assert gradient(best_response(game.reference_A, earned, beta)) > 1e-3
    assert gradient(game.reference_A) > 1e-2


def random_tree(seed, lengths=2):
    """Any Challenger of all families, with some of each node's probability leaving the language."""
    draw = torch.Generator().manual_seed(seed)

    def options(count, *shape):
        every = torch.randn(*shape, count + 1, generator=draw).double().log_softmax(-1)
        return every[..., :count]

    words = {}
    for word in (f"{family} " for family in FAMILIES):
        for i, character in enumerate(word):
            words.setdefault(word[:i], {})[character] = 0.0
    for node in words.values():
        node |= dict(zip(node, options(len(node)).tolist(), strict=True))
    letters = {family: [options(4, 3**n) for n in range(lengths + 1)] for family in FAMILIES}
    for levels in letters.values():
        levels[0][:, -1] = -torch.inf
        levels[-1][:, :3] = -torch.inf
    return AskedTable(words, letters)


@pytest.mark.parametrize("beta", [0.05, 0.5, 2.0])
def test_per_token_is_the_recursion_over_strings(beta):
    tree, tasks = random_tree(1), [t for t in legal_queries() if len(t.argument) <= 2]
    earned = -torch.rand(len(tasks) + 1, generator=torch.Generator().manual_seed(2)).double()
    earned[-1] = 0.1
    of_query = dict(zip((task.query for task in tasks), earned.tolist(), strict=False))
    chosen = {}

    def reference(node):
        """Character -> probability; the end is a full stop."""
        if node in tree.words:
            return {c: math.exp(x) for c, x in tree.words[node].items()}
        family, argument = node.split(" ")
        index = sum("abc".index(c) * 3**i for i, c in enumerate(reversed(argument)))
        row = tree.letters[family][len(argument)][index].exp().tolist()
        return {c: x for c, x in zip("abc.", row, strict=True) if x > 0}

    def solve(node):
        """W of a node; what is chosen there is noted."""
        if node.endswith("."):
            return of_query[node[:-1]]
        ref = reference(node)
        below = {c: solve(node + c) for c in ref} | {"out": 0.1}
        ref["out"] = 1 - sum(ref.values())
        weight = {c: ref[c] * math.exp(below[c] / beta) for c in ref}
        total = sum(weight.values())
        chosen[node] = {c: weight[c] / total for c in weight}
        return sum(weight[c] * below[c] for c in weight) / total

    solve("")
    found = per_token(tree, earned, beta).log_probability_Q().exp()
    for row, query in enumerate(of_query):
        text = f"{query}."
        expected = math.prod(chosen[text[:i]][text[i]] for i in range(len(text)))
        assert found[row].item() == pytest.approx(expected, rel=1e-6)


def test_with_a_large_beta_both_forms_are_one():
    tree = random_tree(3)
    reference = asked_A(tree)
    earned = -torch.rand(len(reference), generator=torch.Generator().manual_seed(4)).double()
    gibbs = best_response(reference, earned, 100.0).exp()
    found = asked_A(per_token(tree, earned, 100.0)).exp()
    assert (found - gibbs).abs().sum() < 0.02 * (gibbs - reference.exp()).abs().sum()
    assert found.sum().item() == pytest.approx(1)


SIZE = 5
numbers = st.lists(st.floats(-3, 3), min_size=SIZE, max_size=SIZE).map(
    lambda values: torch.tensor(values).double()
)
distributions = numbers.map(lambda values: (2 * values).log_softmax(0))
betas = st.floats(0.05, 5)


@given(distributions, distributions, numbers, betas)
def test_a_gap_is_beta_times_the_kl_to_the_best_response(log_p, log_ref, earned, beta):
    best = best_response(log_ref, earned, beta)
    found = gap(log_p, log_ref, Interval(earned, earned, earned), beta)
    assert found.value.item() >= 0
    assert found.value.item() == pytest.approx(beta * kl(log_p, best).item(), abs=1e-9)
    at_best = gap(best, log_ref, Interval(earned, earned, earned), beta)
    assert at_best.value.item() == pytest.approx(0, abs=1e-9)


@given(distributions, distributions, numbers, betas)
def test_nothing_is_worth_more_than_the_gibbs_form(log_p, log_ref, earned, beta):
    best = best_response(log_ref, earned, beta)
    most = soft_value(log_ref, earned, beta).item()
    assert worth(best, log_ref, earned, beta).item() == pytest.approx(most, abs=1e-9)
    assert worth(log_p, log_ref, earned, beta).item() <= most + 1e-9


@given(distributions, distributions, numbers, numbers, numbers, betas)
def test_an_interval_holds_the_gap_whatever_is_earned_between(p, ref, one, other, share, beta):
    low, high = torch.minimum(one, other), torch.maximum(one, other)
    earned = low + share.sigmoid() * (high - low)
    found = gap(p, ref, Interval(low, earned, high), beta)
    assert found.low.item() <= found.value.item() + 1e-9
    assert found.value.item() <= found.high.item() + 1e-9


@given(distributions, distributions)
def test_atoms_see_no_more_kl_than_their_members(log_p, log_ref):
    lumped = [torch.cat([x[:2], x[2:].logsumexp(0)[None]]) for x in (log_p, log_ref)]
    assert kl(*lumped).item() <= kl(log_p, log_ref).item() + 1e-12


def test_without_kl_the_best_response_is_the_reference_among_what_earns_most():
    log_ref, earned = logs(0.5, 0.3, 0.2, 0.0), torch.tensor([0.0, 1.0, 1.0, 9.0]).double()
    assert best_response(log_ref, earned, 0.0).exp().tolist() == pytest.approx([0, 0.6, 0.4, 0])
    near = best_response(log_ref, earned, 1e-3).exp()
    assert near.tolist() == pytest.approx([0, 0.6, 0.4, 0])
    ends = Interval(earned, earned, earned)
    assert gap(log_ref, log_ref, ends, 0.0).value.item() == pytest.approx(0.5)


def test_a_challenger_that_has_left_the_language_is_described_without_nan(game):
    game = replace(game, stakes=Stakes(0.0, 0.0, 0.0))
    predicted = game.predicted()
    assert predicted["valid_query_frac"] < 1e-9 and predicted["effective_support"] == 0
    assert all(math.isfinite(value) for value in predicted.values())
    assert game.played(game.asked, game.answered)["challenger_gap"] == pytest.approx(0.55)


def test_rewards_of_other_answers_lie_in_their_interval():
    tasks = [Task("reverse", "ab"), Task("count", "abc")]
    exact, partial = (rewards_Q3(tasks, credit) for credit in ("exact", "partial"))
    assert exact.low.tolist() == exact.high.tolist() == [[1, 0, 0], [1, 0, 0]]
    assert partial.low[:, 2].tolist() == [0, 0]
    assert partial.high[:, 2].tolist() == pytest.approx([2 / 3, 1 / 2])
    wrong = ("ba" + "x", "b", "bab", "", "aa", "bacc")
    for task, most in zip(tasks, partial.high[:, 2].tolist(), strict=True):
        assert max(verify(task.query, text, "partial") for text in (*wrong, "3a")) <= most + 1e-12


def test_a_quality_moves_the_illegal_atom_and_widens_the_interval(game):
    judged = replace(game.answered, quality_right_Q=torch.full((3,), 6.0).double(),
                     quality_echo_Q=torch.full((3,), torch.nan).double())  # fmt: skip
    assert qualities_Q3(judged).high.tolist() == [[6, 6, 7]] * 3
    loud = replace(game, stakes=replace(STAKES, weight=0.1), answered=judged, illegal_quality=2.0)
    earned = loud.challenger_earns_A(REFERENCE_Q3)
    assert earned.value.tolist() == pytest.approx([-0.15, 0.1, 0.35, 0.2])  # -V + .6
    assert earned.low[0].item() == pytest.approx(-0.75 + 0.1 * 0.75 * 6)
    assert earned.high[0].item() == pytest.approx(-0.75 + 0.1 * (0.75 * 6 + 0.25 * 7))
    played = loud.played(game.asked, judged)
    assert played["nash_conv_low"] < played["nash_conv"] < played["nash_conv_high"]
    silent = replace(game, illegal_quality=math.nan)  # not read where w = 0
    assert silent.played(game.asked, game.answered)["nash_conv"] == pytest.approx(
        0.193616, abs=2e-6
    )


def test_an_echo_that_one_table_lacks_is_among_the_others(game):
    known = answers(0.75, 0.5, 0.25, echo=0.2)
    for base, own in ((game.answered, known), (known, game.answered)):
        played = replace(game, answered=base).played(game.asked, own)
        assert played["solver_kl"] == 0 and played["solver_gap"] == pytest.approx(
            0.093208, abs=2e-6
        )


@pytest.fixture(scope="module")
def base_game(players):
    asked = asked_table(players.reference, read_script(players.chat, players.prompts))
    columns = load_file(SHIPPED)
    answered = AnsweredTable(*(columns[key].double() for key in COLUMNS))
    return Game(Stakes(0.1, 0.1, 0.0), list(legal_queries()), asked, answered)


def test_the_shipped_bases_gaps_are_what_was_measured(base_game):
    played = base_game.played(base_game.asked, base_game.answered)
    assert 1 - played["valid_query_frac"] == pytest.approx(0.0122, abs=5e-5)
    assert played["effective_support"] == pytest.approx(806, abs=1)
    assert played["challenger_gap"] == pytest.approx(0.521, abs=5e-4)
    assert played["solver_gap"] == pytest.approx(0.149, abs=5e-4)
    illegal = 1 - played["valid_query_frac"]
    assert 1 / math.log((1 - illegal) / illegal) == pytest.approx(0.228, abs=5e-4)


@pytest.mark.parametrize(
    ("beta", "gibbs", "token"), [(0.1, 0.04, 0.02), (0.3, 0.81, 0.82), (0.5, 0.94, 0.94)]
)
def test_the_shipped_bases_share_of_legal_queries_is_predicted(base_game, beta, gibbs, token):
    predicted = replace(base_game, stakes=Stakes(beta, beta, 0.0)).predicted()
    assert predicted["legal_gibbs"] == pytest.approx(gibbs, abs=5e-3)
    assert predicted["valid_query_frac"] == pytest.approx(token, abs=5e-3)
