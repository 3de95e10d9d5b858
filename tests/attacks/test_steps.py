"""Step rules against direct transcriptions of the papers' updates, one image at a time, in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medaegis.attacks.balls import L2, Linf
from medaegis.attacks.engine import _Kept
from medaegis.attacks.steps import Adaptive, Descent, Problem, checkpoints
from medaegis.draws import Draws

N, STEPS, EPS = 3, 30, 0.1
DRAWS = Draws(0, torch.arange(N), "steps")


def landscape(seed):
    """A smooth, bumpy loss per image with known gradient: f(z) = sum sin(5 a z + b) + |z - c|^2."""
    source = torch.Generator().manual_seed(seed)
    a, b, c = (torch.randn((N, 1, 3, 4), generator=source, dtype=torch.float64) for _ in range(3))
    x = torch.rand((N, 1, 3, 4), generator=source, dtype=torch.float64)
    x[:, :, 0, 0], x[:, :, 0, 1] = 0.0, 1.0

    def look(z):
        loss = torch.sin(5 * a * z + b).sum((1, 2, 3)) + (z - c).square().sum((1, 2, 3))
        return loss, 5 * a * torch.cos(5 * a * z + b) + 2 * (z - c)

    return x, look


def walk(rule, x, look, *, ball=None, size=0.02, steps=STEPS, eps=EPS):
    """What the engine does: every point, and what it hands over."""
    radius = torch.full((N, 1, 1, 1), eps, dtype=torch.float64)
    walker = rule.begin(Problem(x, radius, torch.full_like(radius, size), steps, ball or Linf(), DRAWS))
    z, points, kept = x.clone(), [], _Kept(x)
    for i in range(steps):
        points.append(z.clone())
        losses, grad = look(z)
        kept.see(z, losses, torch.zeros(N, dtype=torch.bool))
        z = walker.step(z.clone(), grad, losses, i)
    return kept.point if rule.keeps_best else walker.result(z), points


def clip(z, x, eps=EPS):
    return (x + (z - x).clamp(-eps, eps)).clamp(0, 1)


def test_descent_is_madrys_pgd():
    x, look = landscape(0)
    z = x
    for _ in range(STEPS):
        z = clip(z - 0.02 * look(z)[1].sign(), x)
    found, _ = walk(Descent(), x, look)
    torch.testing.assert_close(found, z, rtol=0, atol=1e-12)


def test_momentum_is_dongs_mim():
    """g <- mu g + grad / |grad|_1; the mean instead of the sum is a factor that the sign does not see."""
    x, look = landscape(1)
    for mu in (0.5, 1.0):
        z, g = x, torch.zeros_like(x)
        for _ in range(STEPS):
            grad = look(z)[1]
            g = mu * g + grad / grad.abs().sum((1, 2, 3), keepdim=True)
            z = clip(z - 0.02 * g.sign(), x)
        found, _ = walk(Descent(momentum=mu), x, look)
        torch.testing.assert_close(found, z, rtol=0, atol=1e-12)
    assert not torch.allclose(found, walk(Descent(), x, look)[0]), "momentum changes nothing here: a blind test"


def test_momentum_is_not_over_signs():
    """A gradient that grows tenfold after the first step turns the walk; accumulated signs would stand still."""
    x = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64)
    radius = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)
    walker = Descent(momentum=1.0).begin(Problem(x, radius, radius / 10, 2, Linf(), DRAWS))
    z = walker.step(x.clone(), torch.tensor([[[[1.0, 3.0]]]], dtype=torch.float64), torch.zeros(1), 0)
    z = walker.step(z, torch.tensor([[[[-3.0, 1.0]]]], dtype=torch.float64), torch.zeros(1), 1)
    # Normalised: (0.5, 1.5) then (-1.5, 0.5): sum (-1, 2). Signs: (1, 1) + (-1, 1) = (0, 2).
    torch.testing.assert_close(z, torch.tensor([[[[0.5, 0.4]]]], dtype=torch.float64))


def test_l2_descent_follows_the_unit_gradient():
    x, look = landscape(2)
    z = x
    for _ in range(STEPS):
        grad = look(z)[1]
        z = z - 0.02 * grad / grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        change = z - x
        z = x + change * (EPS / change.flatten(1).norm(dim=1)).clamp(max=1).view(-1, 1, 1, 1)
        z = z.clamp(0, 1)
    found, _ = walk(Descent(), x, look, ball=L2(rms=False))
    torch.testing.assert_close(found, z, rtol=0, atol=1e-12)


def test_decay_takes_hold_at_half_time():
    x, look = landscape(3)
    z = x
    for i in range(STEPS):
        z = clip(z - (0.02 if i < STEPS // 2 else 0.002) * look(z)[1].sign(), x)
    found, _ = walk(Descent(decay=0.1), x, look)
    torch.testing.assert_close(found, z, rtol=0, atol=1e-12)


def test_checkpoints_are_the_papers():
    """Croce and Hein 2020, section 3.1: w_j = ceil(p_j N), in exact arithmetic here."""
    for steps in (1, 5, 10, 20, 50, 100, 1000):
        hundredths, p, gap = [], 22, 22
        while p <= 100:
            hundredths.append(-(-p * steps // 100))
            gap = max(gap - 3, 6)
            p += gap
        assert [mark for mark in checkpoints(steps) if mark <= steps] == sorted(set(hundredths))
    assert checkpoints(100)[:4] == [22, 41, 57, 70]


def auto_pgd(x, look, steps, alpha=0.75, rho=0.75):
    """Algorithm 1 of Croce and Hein 2020 for one image, minimising; the look back is at x_w as in their code."""

    def f(z):
        losses, grads = look(z)
        return losses.item(), grads

    marks = [0, *checkpoints(steps)]
    eta, iterates, losses = 2 * EPS, [x], [f(x)[0]]
    best, best_loss = x, losses[0]
    eta_at, best_at, etas = {0: eta}, {0: None}, [eta]
    previous = None
    for i in range(steps):
        z = iterates[i]
        if i in marks[1:]:
            last = marks[marks.index(i) - 1]
            improved = sum(losses[t + 1] < losses[t] for t in range(last, i))
            stuck = last != 0 and eta_at[last] == eta_at[marks[marks.index(last) - 1]] and best_at[last] == best_loss
            if improved < rho * (i - last) or stuck:
                eta, z = eta / 2, best
            eta_at[i], best_at[i] = eta, best_loss
        y = clip(z - eta * f(z)[1].sign(), x)
        following = y if previous is None else clip(z + alpha * (y - z) + (1 - alpha) * (z - previous), x)
        previous = z
        iterates.append(following)
        if i + 1 < steps:
            losses.append(f(following)[0])
            if losses[-1] < best_loss:
                best, best_loss = following, losses[-1]
        etas.append(eta)
    return best, etas, best_loss


@pytest.mark.parametrize("steps", [1, 2, 20, 60])
def test_adaptive_is_auto_pgd(steps):
    for seed in range(4):
        x, look = landscape(seed)
        found, _ = walk(Adaptive(), x, look, steps=steps)
        for i in range(N):

            def alone(z, i=i, look=look):
                padded = torch.cat([z] * N)
                losses, grads = look(padded)
                return losses[i : i + 1], grads[i : i + 1]

            expected, etas, _ = auto_pgd(x[i : i + 1], alone, steps)
            torch.testing.assert_close(found[i : i + 1], expected, rtol=0, atol=1e-12)
            assert steps < 20 or etas[-1] < 2 * EPS, "no step was ever halved: a blind test"


def test_adaptive_keeps_the_best_point_it_saw():
    x, look = landscape(5)
    found, points = walk(Adaptive(), x, look, steps=40)
    seen = torch.stack([look(z)[0] for z in points])
    torch.testing.assert_close(look(found)[0], seen.amin(0), rtol=0, atol=1e-12)
    assert (look(found)[0] < seen[0]).all()


def test_adaptive_stays_clean_where_the_loss_is_no_number():
    x, look = landscape(6)

    def broken(z):
        losses, grads = look(z)
        losses[1] = math.nan
        return losses, grads

    found, _ = walk(Adaptive(), x, broken)
    assert torch.equal(found[1], x[1])
    torch.testing.assert_close(found[0], walk(Adaptive(), x, look)[0][0], rtol=0, atol=0)


def test_what_is_kept_changes_no_step():
    x, look = landscape(5)
    found, points = walk(Descent(keeps_best=True), x, look, size=0.08)
    assert all(torch.equal(a, b) for a, b in zip(points, walk(Descent(), x, look, size=0.08)[1], strict=True))
    lowest = torch.stack([look(z)[0] for z in points]).argmin(0)
    assert lowest.tolist() != [STEPS - 1] * N, "the last point is the best: a blind test"
    assert torch.equal(found, torch.stack([points[k][i] for i, k in enumerate(lowest.tolist())]))


LOSSES = st.sampled_from([-2.0, 0.0, 1.0, math.inf, math.nan])


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([-2.0, 0.0, 1.0, math.inf, math.nan])), min_size=1, max_size=8)
)
def test_the_best_got_through_before_it_was_low(seen):
    """Against sorting: what got through first, then by loss, then by time; a loss that is no number never counts."""
    kept = _Kept(torch.full((1, 1, 1, 1), -1.0))
    for k, (through, loss) in enumerate(seen):
        kept.see(torch.full((1, 1, 1, 1), float(k)), torch.tensor([loss]), torch.tensor([through]))
    order = [(not through, loss, k) for k, (through, loss) in enumerate(seen) if math.isfinite(loss)]
    assert kept.point.item() == (min(order)[2] if order else -1)
