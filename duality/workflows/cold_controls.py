"""Cold items and cold users without an encoder: what their first users or items say when they are merely pooled.

The controls answer in both directions, beside the trained rows and weighed by likelihood as the model's own are,
so that what the encoders add can be told from what their input already says.

Shapes: U users, I items, N users of a fit, C rows that were given events, D dimensions.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch.nn import functional

from duality.data.histories import Histories, oldest, user_histories
from duality.embeddings import stored_users
from duality.workflows.cold_scorers import Make
from duality.workflows.pooling import ItemMeans, Weighed, centred_means, log_odds
from duality.workflows.scorers import States

MOST = 4_096  # users that the weights of a pooled user are fitted to


def means_of_first(states: States, given: Histories) -> np.ndarray:
    """Mean of every item's given users as they were before they came, float32 [I, D]; 0 without any."""
    return _means(states.users_before(given.event)[:, : states.model.dim], given)


def pooled_items(states: States, given: Histories, weighed: Weighed) -> np.ndarray:
    """Items as the pool of their users, float32 [C, D + 3]."""
    owners = np.flatnonzero(given.lengths)
    return weighed.stored(means_of_first(states, given)[owners], given.lengths[owners])


def item_pools(states: States) -> dict[str, Make]:
    """`centred_mean` and `log_odds` (`duality.workflows.pooling`), fitted to the events of trained items."""
    means, pools = ItemMeans(states), {"centred_mean": centred_means, "log_odds": log_odds}
    return {
        name: partial(pooled_items, weighed=Weighed(states, pool(states), means))
        for name, pool in pools.items()
    }


def user_pools() -> dict[str, Make]:
    """`centred_mean` of a user's items, and the mean user for what they leave open."""
    return {"centred_mean": pooled_users}


def pooled_users(states: States, given: Histories) -> np.ndarray:
    """a x (mean of the items - mean of all) + b x mean user, float32 [C, D + 3].

    a and b are those that make the next items of trained users with as many events likeliest.
    """
    owners = np.flatnonzero(given.lengths)
    found = np.zeros((len(owners), states.model.dim), np.float32)
    parts = _user_parts(states, given, owners)
    for n in np.unique(given.lengths[owners]):
        mine = given.lengths[owners] == n
        weights = weights_of_users(states, int(n))
        found[mine] = np.einsum("p,pnd->nd", weights, parts[:, mine])
    return stored_users(states.model, torch.from_numpy(found))


def weights_of_users(states: States, n: int) -> np.ndarray:
    """a and b of users with n items, float32 [2]; (1, 1) where no trained user has more."""
    histories = user_histories(states.dataset, states.visible)
    longer = np.random.default_rng(0).permutation(np.flatnonzero(histories.lengths > n))[:MOST]
    if not len(longer):
        return np.ones(2, np.float32)
    parts = torch.from_numpy(_user_parts(states, oldest(histories, n), longer))
    target = states.dataset.event_item[histories.event[histories.indptr[longer] + n]].astype(np.int64)
    return _likeliest(parts @ states.vectors.T, torch.from_numpy(target))


def _likeliest(scores: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    """Weights float32 [P] of score tables float32 [P, N, I] under which `target` int64 [N] is likeliest.

    Concave, so that any start finds them.
    """
    weights = torch.ones(len(scores), dtype=scores.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=30, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(torch.einsum("p,pni->ni", weights, scores), target)
        value.backward()
        return value

    with torch.inference_mode(False), torch.enable_grad():
        optimizer.step(loss)
    return weights.detach().numpy()


def _user_parts(states: States, given: Histories, owners: np.ndarray) -> np.ndarray:
    """Centred means of the owners' items, and the mean user: float32 [2, C, D]."""
    items = states.vectors.detach().numpy()
    means = _means(items[states.dataset.event_item[given.event]], given)[owners]
    centre = items[states.model.trained.numpy()].mean(axis=0)
    mean_user = np.broadcast_to(states.model.population_mean.numpy(), means.shape)
    return np.stack((means - centre, mean_user))


def _means(rows: np.ndarray, given: Histories) -> np.ndarray:
    """Means of the rows float32 [H, D] of each history, float32 [N, D]; 0 for an empty one."""
    means = np.zeros((given.num_owners, rows.shape[1]), np.float32)
    np.add.at(means, np.repeat(np.arange(given.num_owners), given.lengths), rows)
    return means / given.lengths.clip(min=1)[:, None].astype(np.float32)
