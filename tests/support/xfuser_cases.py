"""What the ranks of the xfuser tests do: the cases of `parallel_cases`, with xfuser's attention."""

import sys
from functools import partial

from reelray.proto.layout import Layout
from reelray.workers.parallel.attention_choice import MeasuredAttention, load_choice, make_ours
from reelray.workers.parallel.mesh import Mesh
from reelray.workers.parallel.xfuser_attention import Xfuser, XfuserAttention
from tests.support.parallel_cases import _attempt, attention_gap, count_groups, make_model, predict_on
from tests.support.xfuser_on_cpu import load_xfuser


def run_xfuser(rank, layouts, cases, attentions, measured):
    """Each case and attention with xfuser; returns predictions, gaps and what came of switching and choosing."""
    before = [name for name in sys.modules if name.split(".")[0] in {"xfuser", "yunchang"}]
    refused = _attempt(Xfuser.load) if rank.device.type == "cpu" else None
    xfuser = load_xfuser()
    theirs = partial(XfuserAttention, xfuser=xfuser)
    mesh = Mesh.create([Layout.parse(layout) for layout in layouts], rank.device, timeout_s=60)
    groups, models, predictions = [count_groups()], {}, []
    for layout, name, dtype, options in cases:
        if (name, dtype) not in models:
            models[name, dtype] = make_model(name, dtype, rank.device)
        found = _attempt(predict_on, mesh, Layout.parse(layout), models[name, dtype], make_attention=theirs, **options)
        predictions.append(found)
        groups.append(count_groups())
    gaps = [
        _attempt(
            attention_gap,
            mesh,
            Layout.parse(layout),
            rank.device,
            make_attention=partial(theirs, packed=packed),
            **options,
        )
        for layout, options in attentions
        for packed in (True, False)
    ]
    calls = count_calls(mesh, layouts[0], rank.device, xfuser, measured)
    lane = mesh.lane(Layout.parse(layouts[0]))
    ours = [load_choice(lane, rows) is make_ours for rows in measured]
    mesh.close()
    closed = _attempt(xfuser.bind, lane)
    return {
        "before": before,
        "refused": refused,
        "predictions": predictions,
        "groups": groups,
        "gaps": gaps,
        "calls": calls,
        "ours": ours,
        "closed": closed,
    }


def count_calls(mesh, layout, device, xfuser, measured):
    """How often xfuser was asked, and the gap, with each set of measurements."""
    found, calls, usp = [], [], xfuser.usp.USP
    xfuser.usp.USP = lambda *args, **kwargs: calls.append(1) or usp(*args, **kwargs)
    for rows in measured:
        make = partial(MeasuredAttention, xfuser=xfuser, measured=rows)
        calls.clear()
        gap = attention_gap(mesh, Layout.parse(layout), device, heads=4, places=12, make_attention=make)
        found.append((len(calls), gap))
    xfuser.usp.USP = usp
    return found
