"""Derivatives of programs, as programs: forward mode (jvp) and reverse mode (vjp), to any order.

Zeros are symbolic (None).  Both modes re-emit the program they differentiate into a graph and work on the copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastmeta.ops import elementwise as ew
from fastmeta.ops.structure import CALL, LOOP, PROJECT, Call, Loop, call, loop, results
from fastmeta.program import FLOATS, Graph, Program, Var, inline
from fastmeta.transforms.rewrites import scale_of, unscaled

Maybe = Var | None


def plus(x: Maybe, y: Maybe) -> Maybe:
    return y if x is None else x if y is None else ew.add(x, y)


def zeros(graph: Graph, like: Var) -> Var:
    return graph.const(0.0, like.shape, like.dtype)


# -- forward mode


def jvp(p: Program, active: tuple[bool, ...]) -> Program:
    """Inputs: those of ``p``, then tangents of the active ones.  Outputs: those of ``p``, then tangents of its float outputs."""
    key = ("jvp", active)
    done = p.memo.get(key)
    if done is None:
        g = Graph()
        args = [g.input(v.shape, v.dtype) for v in p.inputs]
        tangents = [g.input(v.shape, v.dtype) if a else None for v, a in zip(p.inputs, active, strict=True)]
        outs, touts = push(g, p, args, tangents)
        full = [zeros(g, v) if t is None else t for v, t in zip(outs, touts, strict=True) if v.dtype in FLOATS]
        done = p.memo[key] = Program([*args, *(t for t in tangents if t is not None)], outs + full, g)
    return done


def push(g: Graph, p: Program, args: Sequence[Var], tangents: Sequence[Maybe]) -> tuple[list[Var], list[Maybe]]:
    """Emits ``p`` on ``args`` into ``g`` with its tangents; returns its outputs and theirs."""
    env: list[Any] = [None] * len(p.nodes)
    tan: list[Any] = [None] * len(p.nodes)
    for v, a, t in zip(p.inputs, args, tangents, strict=True):
        env[v.id], tan[v.id] = a, t
    for v in p.live():
        if env[v.id] is not None:
            continue
        g.line = v.line
        if v.op is PROJECT:
            k = v.attrs[0]
            env[v.id], tan[v.id] = env[v.ins[0].id][k], tan[v.ins[0].id][k]
            continue
        ins = tuple([env[i.id] for i in v.ins])
        ts = [tan[i.id] for i in v.ins]
        if v.op is CALL or v.op is LOOP:
            step = _push_call if v.op is CALL else _push_loop
            env[v.id], tan[v.id] = step(g, v.attrs[0], ins, ts)
            continue
        out = env[v.id] = g.emit(v.op, ins, v.attrs)
        if out.dtype in FLOATS and any(t is not None for t in ts):
            tan[v.id] = _tangent(g, v, ins, ts, out)
    return [env[v.id] for v in p.outputs], [tan[v.id] for v in p.outputs]


def _tangent(g: Graph, v: Var, ins: tuple[Var, ...], ts: list[Maybe], out: Var) -> Maybe:
    """The tangent of one equation; v names the row, (ins, out) its values."""
    op, total = v.op, None
    if op is ew.MULTIPLY and ins[0] is ins[1] and ts[0] is not None:
        return ew.multiply(ew.multiply(ts[0], 2.0), ins[0])
    if op.linear and len(op.linear) > 2 and len(ins) > 1:  # linear in all operands together: one equation
        return g.emit(op, tuple([zeros(g, x) if t is None else t for x, t in zip(ins, ts, strict=True)]), v.attrs)
    for k, t in enumerate(ts):
        if t is None:
            continue
        if k in op.linear:
            total = plus(total, g.emit(op, (*ins[:k], t, *ins[k + 1 :]), v.attrs))
        elif op.partials:
            rule = op.partials[k]
            if rule is not None:
                total = plus(total, rule(t, ins, out))
        elif op.tangent is not None:
            total = plus(total, op.tangent(k, t, ins, v.attrs, out))
    return total


def _push_call(g: Graph, s: Call, ins: tuple[Var, ...], ts: list[Maybe]) -> tuple[list[Var], list[Maybe]]:
    active = tuple([t is not None for t in ts])
    if not any(active):
        outs = call(g, s, ins)
        return outs, [None] * len(outs)
    body = jvp(s.body, active)
    outs = call(g, Call(body), (*ins, *(t for t in ts if t is not None)))
    n = len(s.body.outputs)
    rest = iter(outs[n:])
    return outs[:n], [next(rest) if v.dtype in FLOATS else None for v in s.body.outputs]


def _push_loop(g: Graph, s: Loop, ins: tuple[Var, ...], ts: list[Maybe]) -> tuple[list[Var], list[Maybe]]:
    if all(t is None for t in ts):
        outs = loop(g, s, ins)
        return outs, [None] * len(outs)
    active = [t is not None for t in ts]
    while True:  # a carry is active as soon as an iteration can make it so
        flags = _reaches(s.body, active)
        grown = [*active]
        for k in range(s.carry):
            grown[s.invariant + k] |= flags[k]
        if grown == active:
            break
        active = grown
    key = ("jvp loop", tuple(active))
    body = s.body.memo.get(key)
    if body is None:
        b = Graph()
        args = [b.input(v.shape, v.dtype) for v in s.body.inputs]
        tans = [b.input(v.shape, v.dtype) if a else None for v, a in zip(s.body.inputs, active, strict=True)]
        outs, touts = push(b, s.body, args, tans)
        live = [active[s.invariant + k] if k < s.carry else t is not None for k, t in enumerate(touts)]
        touts = [zeros(b, v) if t is None else t for v, t, on in zip(outs, touts, live, strict=True) if on]
        body = s.body.memo[key] = (_by_kind(s, args, tans, outs, touts, live, b), live)
    program, live = body
    n, m = s.invariant, s.invariant + s.carry
    tins = [zeros(g, x) if t is None else t for x, t in zip(ins, ts, strict=True)]
    spread = [(lo, hi) for lo, hi in ((0, n), (n, m), (m, len(ins)))]
    args = [x for lo, hi in spread for x in (*ins[lo:hi], *(t for t, a in zip(tins[lo:hi], active[lo:hi], strict=True) if a))]
    kinds = (s.carry, s.carry + s.stacked, len(s.body.outputs))
    out_spread = list(zip((0, *kinds), kinds))
    spec = Loop(
        program,
        n + sum(active[:n]),
        s.carry + sum(active[n:m]),
        s.sliced + sum(active[m:]),
        s.stacked + sum(live[kinds[0] : kinds[1]]),
        s.summed + sum(live[kinds[1] :]),
        s.length,
        s.reverse,
    )
    vals = iter(loop(g, spec, tuple(args)))
    outs_: list[Var] = []
    touts_: list[Maybe] = []
    for lo, hi in out_spread:
        outs_ += [next(vals) for _ in range(lo, hi)]
        touts_ += [next(vals) if live[k] else None for k in range(lo, hi)]
    return outs_, touts_


def _by_kind(
    s: Loop, args: list[Var], tans: list[Maybe], outs: list[Var], touts: list[Maybe], live: list[bool], b: Graph
) -> Program:
    """Sorts values and tangents so that each kind of input and result stays together."""
    n, m = s.invariant, s.invariant + s.carry
    inputs: list[Var] = []
    for lo, hi in ((0, n), (n, m), (m, len(args))):
        inputs += [*args[lo:hi], *(t for t in tans[lo:hi] if t is not None)]
    rest = iter(touts)
    sorted_t = [next(rest) if on else None for on in live]
    outputs: list[Var] = []
    for lo, hi in ((0, s.carry), (s.carry, s.carry + s.stacked), (s.carry + s.stacked, len(outs))):
        outputs += [*outs[lo:hi], *(t for t in sorted_t[lo:hi] if t is not None)]
    return Program(inputs, outputs, b)


def _reaches(p: Program, active: Sequence[bool]) -> list[bool]:
    """Which outputs can have a derivative with respect to the active inputs."""
    act = activity(p, active)
    return [bool(act[v.id]) and v.dtype in FLOATS for v in p.outputs]


def activity(p: Program, active: Sequence[bool]) -> bytearray:
    """Marks the equations that have a derivative with respect to the active inputs."""
    act = bytearray(len(p.nodes))
    for v, a in zip(p.inputs, active, strict=True):
        act[v.id] = a and v.dtype in FLOATS
    for v in p.nodes:
        if not act[v.id] and v.ins and any(act[i.id] for i in v.ins):
            act[v.id] = v.dtype in FLOATS and _differentiable(v) or v.dtype == "tuple"
    return act


def _differentiable(v: Var) -> bool:
    op = v.op
    return bool(op.linear) or any(r is not None for r in op.partials) or op.tangent is not None or op is PROJECT


# -- reverse mode


def vjp(p: Program, active: tuple[bool, ...], given: tuple[bool, ...], keep: bool = False) -> Program:
    """Inputs: those of ``p``, then cotangents of the given outputs.  Outputs: cotangents of the active inputs.

    With ``keep`` the outputs of ``p`` come first.
    """
    key = ("vjp", active, given, keep)
    done = p.memo.get(key)
    if done is None:
        g = Graph()
        args = [g.input(v.shape, v.dtype) for v in p.inputs]
        cts = [g.input(v.shape, v.dtype) if a else None for v, a in zip(p.outputs, given, strict=True)]
        outs, back = pull(g, p, args, cts, active)
        full = [zeros(g, x) if c is None else c for x, c, a in zip(args, back, active, strict=True) if a]
        done = p.memo[key] = Program([*args, *(c for c in cts if c is not None)], (outs if keep else []) + full, g)
    return done


def gradient(p: Program, n: int, keep: bool) -> Program:
    """The gradient of output 0, a scalar, with respect to the first n inputs; with ``keep`` all outputs of ``p`` come first."""
    key = ("gradient", n, keep)
    done = p.memo.get(key)
    if done is None:
        g = Graph()
        args = [g.input(v.shape, v.dtype) for v in p.inputs]
        cts: list[Maybe] = [g.const(1.0, (), p.outputs[0].dtype), *[None] * (len(p.outputs) - 1)]
        active = [k < n for k in range(len(args))]
        outs, back = pull(g, p, args, cts, active)
        full = [zeros(g, x) if c is None else c for x, c in zip(args[:n], back[:n], strict=True)]
        done = p.memo[key] = Program(args, (outs if keep else []) + full, g)
    return done


def pull(
    g: Graph, p: Program, args: Sequence[Var], cts: Sequence[Maybe], active: Sequence[bool]
) -> tuple[list[Var], list[Maybe]]:
    """Emits ``p`` on ``args`` into ``g`` and its reverse pass; returns its outputs and the cotangents of its inputs."""
    act = activity(p, active)
    live = p.live()
    env: list[Any] = [None] * len(p.nodes)
    saved: dict[int, list[Var]] = {}
    for v, a in zip(p.inputs, args, strict=True):
        env[v.id] = a
    for v in live:
        if env[v.id] is not None:
            continue
        g.line = v.line
        if v.op is PROJECT:
            env[v.id] = env[v.ins[0].id][v.attrs[0]]
            continue
        ins = tuple([env[i.id] for i in v.ins])
        if v.op is CALL:
            env[v.id] = call(g, v.attrs[0], ins)
        elif v.op is LOOP:
            spec = v.attrs[0]
            if spec.carry and act[v.id]:  # keep the carry of every iteration: the checkpoints of the reverse loop
                outs = loop(g, _checkpointed(spec), ins)
                c, s = spec.carry, spec.stacked
                env[v.id], saved[v.id] = outs[: c + s] + outs[2 * c + s :], outs[c + s : 2 * c + s]
            else:
                env[v.id] = loop(g, spec, ins)
        else:
            env[v.id] = g.emit(v.op, ins, v.attrs)
    ct: list[Any] = [None] * len(p.nodes)
    for v, c in zip(p.outputs, cts, strict=True):
        ct[v.id] = plus(ct[v.id], c)
    for v in reversed(live):
        c = ct[v.id]
        if c is None or not act[v.id] or not v.ins:
            continue
        g.line = v.line
        if v.op is PROJECT:
            many = ct[v.ins[0].id]
            if many is None:
                many = ct[v.ins[0].id] = [None] * len(v.ins[0].attrs[0].body.outputs)
            many[v.attrs[0]] = plus(many[v.attrs[0]], c)
            continue
        ins = tuple([env[i.id] for i in v.ins])
        flags = [bool(act[i.id]) for i in v.ins]
        if v.op is CALL:
            back = _pull_call(g, v.attrs[0], ins, c, flags)
        elif v.op is LOOP:
            back = _pull_loop(g, v.attrs[0], ins, c, flags, saved.get(v.id, []))
        else:
            back = _cotangents(g, v, ins, env[v.id], c, flags)
        for i, b in zip(v.ins, back, strict=True):
            if b is not None:
                ct[i.id] = plus(ct[i.id], b)
    return [env[v.id] for v in p.outputs], [ct[v.id] if a else None for v, a in zip(p.inputs, active, strict=True)]


class _Seen:
    """An equation of the differentiated program with the values of the copy: what the rules of a row look at."""

    __slots__ = ("ins", "attrs", "shape", "dtype")

    def __init__(self, ins: tuple[Var, ...], v: Var) -> None:
        self.ins, self.attrs, self.shape, self.dtype = ins, v.attrs, v.shape, v.dtype


def _cotangents(g: Graph, v: Var, ins: tuple[Var, ...], out: Var, c: Var, flags: list[bool]) -> list[Maybe]:
    op = v.op
    back: list[Maybe] = [None] * len(ins)
    if op is ew.MULTIPLY and ins[0] is ins[1]:
        back[0] = ew.multiply(ew.multiply(c, 2.0), ins[0])
        return back
    for k in sorted(range(len(ins)), key=lambda k: ins[k].size):  # small ones first: what they read may be free before large ones are made
        if not flags[k]:
            continue
        if k in op.linear:
            assert op.transpose is not None
            seen: Any = _Seen(ins, v)  # in place of the equation
            back[k] = op.transpose(k, c, seen)
        elif op.partials:
            rule = op.partials[k]
            back[k] = None if rule is None else rule(c, ins, out)
        elif op.tangent is not None:
            back[k] = _transposed(g, v, k, ins, out, c)
    return back


def _transposed(g: Graph, v: Var, k: int, ins: tuple[Var, ...], out: Var, c: Var) -> Maybe:
    """Reverse mode from a row's tangent rule: the rule, as a program linear in t, pulled back."""
    b = Graph()
    args = [b.input(x.shape, x.dtype) for x in v.ins]
    t = b.input(v.ins[k].shape, v.ins[k].dtype)
    value = b.emit(v.op, tuple(args), v.attrs)
    assert v.op.tangent is not None
    rule = Program([*args, t], [v.op.tangent(k, t, tuple(args), v.attrs, value)], b)
    zero = zeros(g, ins[k])
    return pull(g, rule, [*ins, zero], [c], [False] * len(args) + [True])[1][-1]


def _pull_call(g: Graph, s: Call, ins: tuple[Var, ...], cts: list[Maybe], flags: list[bool]) -> list[Maybe]:
    back: list[Maybe] = [None] * len(ins)
    n = s.gradient_of
    block = range(s.first, s.first + n)
    outside = {k: c for k, c in enumerate(cts) if c is not None and k not in block}
    if n and not any(flags[n:]) and all(flags[:n]) and outside.keys() <= {0}:
        grads = results(g.emit(CALL, ins, (s,)), s.body)[s.first : s.first + n]
        if outside:  # the scalar itself: its cotangent times the gradient
            back[:n] = [_scaled(gr, outside[0]) for gr in grads]
        us: list[Var] = []
        for k, gr in zip(block, grads, strict=True):
            c = cts[k]
            us.append(zeros(g, gr) if c is None else c)
        if any(cts[k] is not None for k in block):
            # the Hessian is symmetric: its product in reverse is its product forwards
            factor, us = _common_scale(us)
            body = _hessian_vector(s)
            for k, h in enumerate(call(g, Call(body), (*ins, *us))):
                back[k] = plus(back[k], ew.multiply(h, factor) if factor != 1.0 else h)
        return back
    if s.kernel and s.kernel.pulls and not any(flags[len(s.kernel.pulls) :]):
        (c,) = cts
        assert c is not None
        for k, kernel in enumerate(s.kernel.pulls):
            if flags[k]:
                only = tuple([i == k for i in range(len(flags))])
                (back[k],) = call(g, Call(vjp(s.body, only, (True,)), kernel=kernel), (*ins, c))
        return back
    given = tuple([c is not None for c in cts])
    body = vjp(s.body, tuple(flags), given)
    outs = iter(call(g, Call(body), (*ins, *(c for c in cts if c is not None))))
    return [next(outs) if a else None for a in flags]


def _scaled(x: Var, by: Var) -> Var:
    from fastmeta.ops.shape import broadcast

    return ew.multiply(x, broadcast(by, x.shape, ()))


def _hessian_vector(s: Call) -> Program:
    """Inputs: those of the gradient program, then the vector.  Outputs: Hessian times vector."""
    key = ("hessian vector", s.gradient_of, s.first)
    done = s.body.memo.get(key)
    if done is None:
        n = s.gradient_of
        pushed = jvp(s.body, tuple(k < n for k in range(len(s.body.inputs))))
        floats = [k for k, v in enumerate(s.body.outputs) if v.dtype in FLOATS]
        at = len(s.body.outputs) + floats.index(s.first)
        g = Graph()
        args = [g.input(v.shape, v.dtype) for v in pushed.inputs]
        done = s.body.memo[key] = Program(args, inline(g, pushed, args)[at : at + n], g)
    return done


def _common_scale(us: list[Var]) -> tuple[float, list[Var]]:
    """Peels off a constant factor that all of ``us`` share, so that it does not travel through the program."""
    factors = {scale_of(u) for u in us}
    if len(factors) != 1 or factors == {1.0}:
        return 1.0, us
    return factors.pop(), [unscaled(u) for u in us]


def _checkpointed(s: Loop) -> Loop:
    """The loop that also stacks the carry each iteration starts from."""
    body = s.body.memo.get("checkpointed")
    if body is None:
        g = Graph()
        args = [g.input(v.shape, v.dtype) for v in s.body.inputs]
        outs = inline(g, s.body, args)
        carries = args[s.invariant : s.invariant + s.carry]
        k = s.carry + s.stacked
        body = s.body.memo["checkpointed"] = Program(args, [*outs[:k], *carries, *outs[k:]], g)
    return s._replace(body=body, stacked=s.stacked + s.carry)


def _pull_loop(
    g: Graph, s: Loop, ins: tuple[Var, ...], cts: list[Maybe], flags: list[bool], saved: list[Var]
) -> list[Maybe]:
    n, m = s.invariant, s.invariant + s.carry
    active = [*flags]
    while True:
        reach = _reaches(s.body, active)
        grown = active[:n] + [active[n + k] or reach[k] for k in range(s.carry)] + active[m:]
        if grown == active:
            break
        active = grown
    k0, k1 = s.carry, s.carry + s.stacked
    reach = _reaches(s.body, active)
    given = tuple([active[n + k] if k < k0 else c is not None and reach[k] for k, c in enumerate(cts)])
    key = ("vjp loop", tuple(active), given)
    body = s.body.memo.get(key)
    if body is None:
        b = Graph()
        formal = [b.input(v.shape, v.dtype) for v in s.body.inputs]
        bcts = [b.input(v.shape, v.dtype) if on else None for v, on in zip(s.body.outputs, given, strict=True)]
        _, back = pull(b, s.body, formal, bcts, active)
        full = [zeros(b, x) if c is None else c for x, c in zip(formal, back, strict=True)]
        pick = [[full[k] for k in range(lo, hi) if active[k]] for lo, hi in ((0, n), (n, m), (m, len(formal)))]
        have = [[c for c in bcts[lo:hi] if c is not None] for lo, hi in ((0, k0), (k0, k1), (k1, len(bcts)))]
        inputs = [*formal[:n], *have[2], *have[0], *formal[n:m], *formal[m:], *have[1]]
        body = s.body.memo[key] = Program(inputs, [*pick[1], *pick[2], *pick[0]], b)
    start = [zeros(g, x) if c is None else c for x, c, on in zip(ins[n:m], cts[:k0], given[:k0], strict=True) if on]
    summed = [c for c, on in zip(cts[k1:], given[k1:], strict=True) if on and c is not None]
    stacked = [c for c, on in zip(cts[k0:k1], given[k0:k1], strict=True) if on and c is not None]
    spec = Loop(
        body,
        invariant=n + len(summed),
        carry=len(start),
        sliced=len(saved) + s.sliced + len(stacked),
        stacked=sum(active[m:]),
        summed=sum(active[:n]),
        length=s.length,
        reverse=not s.reverse,
    )
    outs = iter(loop(g, spec, (*ins[:n], *summed, *start, *saved, *ins[m:], *stacked)))
    order = [*range(n, m), *range(m, len(ins)), *range(n)]
    back_: list[Maybe] = [None] * len(ins)
    for k in order:
        if active[k]:
            value = next(outs)
            back_[k] = value if flags[k] else None
    return back_
