import pytest
import torch

from thalweg.tasks.teacher_student import linear_teacher, relu_teacher


def test_linear_teacher_has_the_stated_variances():
    problem = linear_teacher(400, 2000, 4.0, generator=torch.Generator().manual_seed(0))
    assert problem.X.var().item() * 400 == pytest.approx(1, rel=0.01)
    noise = problem.y - problem.X.T @ problem.teacher
    assert noise.var().item() == pytest.approx(0.25, rel=0.1)


def test_relu_teacher_is_clean_on_its_tests_and_noisy_in_training():
    a, b = (relu_teacher(5, 500, snr, generator=torch.Generator().manual_seed(0)) for snr in (1.0, 1e12))
    assert torch.equal(a.X, b.X) and torch.equal(a.y_test, b.y_test)
    assert (a.y - b.y).var().item() == pytest.approx(1, rel=0.2)
    assert a.y_test.mean().item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("teacher", [linear_teacher, relu_teacher])
def test_what_is_refused(teacher):
    for arguments in ((0, 5, 1.0), (5, 0, 1.0), (5, 5, 0.0)):
        with pytest.raises(ValueError, match="must be positive"):
            teacher(*arguments)
