"""Every ranking metric equals ir-measures on 10,000 random cases."""

from __future__ import annotations

import numpy as np
import pytest

from duality import metrics

ir_measures = pytest.importorskip("ir_measures", reason="needs the extra `test`")

CASES, KS = 10_000, (1, 5, 10, 20)


def test_metrics_equal_ir_measures() -> None:
    """A case is a query with 2 to 60 candidates in distinct order and one relevant target."""
    random = np.random.default_rng(0)
    candidates = random.integers(2, 61, CASES)
    ranks = random.integers(1, candidates + 1)
    run, qrels = [], []
    for query, (rank, number) in enumerate(zip(ranks.tolist(), candidates.tolist())):
        run += [
            ir_measures.ScoredDoc(str(query), f"d{place}", float(-place)) for place in range(1, number + 1)
        ]
        qrels.append(ir_measures.Qrel(str(query), f"d{rank}", 1))
    pairs = {
        **{f"ndcg@{k}": ir_measures.nDCG @ k for k in KS},
        **{f"recall@{k}": ir_measures.Success @ k for k in KS},
        **{f"mrr@{k}": ir_measures.RR @ k for k in KS},
    }
    ours = {name: metrics.per_query(name, ranks, candidates) for name in pairs}
    names = {str(measure): name for name, measure in pairs.items()}
    found = {name: np.full(CASES, np.nan) for name in pairs}
    for result in ir_measures.iter_calc(list(pairs.values()), qrels, run):
        found[names[str(result.measure)]][int(result.query_id)] = result.value
    for name in pairs:
        np.testing.assert_allclose(ours[name], found[name], atol=1e-9, err_msg=name)


def test_auc_and_lift_equal_their_definitions() -> None:
    random = np.random.default_rng(1)
    for _ in range(CASES):
        number = int(random.integers(2, 40))
        scores = random.permutation(number)
        target = int(random.integers(number))
        rank = 1 + int((scores > scores[target]).sum())
        arrays = np.array([rank]), np.array([number])
        assert metrics.auc(*arrays)[0] == pytest.approx((scores < scores[target]).sum() / (number - 1))
        percent = float(random.choice([1, 5, 10, 25]))
        top = int(np.ceil(round(number * percent / 100, 9)))
        hit = target in np.argsort(-scores)[:top]
        assert metrics.lift(*arrays, percent)[0] == pytest.approx(hit * number / top)
