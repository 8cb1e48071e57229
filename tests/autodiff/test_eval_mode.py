import pytest
from torch import nn

from thalweg.autodiff import eval_mode


def test_every_module_gets_its_own_mode_back_even_after_an_error():
    net = nn.Sequential(nn.BatchNorm1d(2).eval(), nn.Sequential(nn.Dropout(), nn.Linear(2, 2).eval()))
    modes = [m.training for m in net.modules()]
    assert True in modes and False in modes
    with pytest.raises(RuntimeError), eval_mode(net) as same:
        assert same is net and not any(m.training for m in net.modules())
        raise RuntimeError
    assert [m.training for m in net.modules()] == modes
