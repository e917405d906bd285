"""Next-token logits through a key-value cache, one token a row at a time.

`Decoder` serves any transformers language model. `GPT2Decoder` has GPT-2's layers written out, and
`FixedDecoder` makes of a whole step one program, which a GPU replays by a single launch. What they
compute is the same. Axes: B rows, P prompt slots, T new tokens, V vocabulary.
Chapter: what-a-step-costs.
"""

from __future__ import annotations

import math
from contextlib import contextmanager, nullcontext
from functools import partial
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import BFloat16Products, without_cudnn
from .preparation import layers_of

SMALL_VOCABULARY = 4096  # rows for which a draw takes a random number each, on a processor


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions counted over real tokens only, so that left padding does not shift a prompt.

    Chapters: ppo-live, rlvr.

    Examples
    --------
    >>> position_ids(torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]))
    tensor([[0, 0, 0, 1, 2],
            [0, 1, 2, 3, 4]])
    """
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)


class Decoder:
    """Next-token logits of any transformers language model, one token a row at a time.

    Rows that have ended are carried along until a quarter is dead; then the cache is copied
    without them. Chapter: what-a-step-costs.
    """

    def __init__(self, model, max_new_tokens: int, dtype: torch.dtype | None = None):
        self.model, self.max_new_tokens = model, max_new_tokens
        self.dtype = dtype or model.dtype  # what is computed in

    def start(self, prompt_ids: Tensor, prompt_mask: Tensor) -> Tensor:
        """Read the prompts, (B, P); return the logits of the first new token, (B, V)."""
        self.mask = prompt_mask.bool()  # (rows, slots) what a new token may attend to
        self.even = bool(self.mask.all())
        self.positions = position_ids(prompt_mask)
        self.rows = torch.arange(len(prompt_ids), device=prompt_ids.device)  # not ended yet
        self.open(*prompt_ids.shape)
        return self.forward(prompt_ids, self.positions)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows of the cache, in this order; a row may be taken several times."""
        self.mask, self.positions = self.mask[rows], self.positions[rows, -1:]
        self.reorder(rows)
        self.rows = torch.arange(len(rows), device=rows.device)

    def step(self, token: Tensor, going: Tensor) -> Tensor:
        """The logits after one more token in each row that goes on.

        `going` tells, for the rows of the last logits, which those are; `token` has one for each.
        """
        self.rows = self.rows[going]
        if len(self.rows) <= 0.75 * len(self.mask):
            self.keep(self.rows)
        ids = token.new_zeros(len(self.mask), 1)
        ids[self.rows, 0] = token
        self.positions = self.positions[:, -1:] + 1
        self.mask = F.pad(self.mask, (0, 1), value=True)
        logits = self.forward(ids, self.positions)
        return logits if len(self.rows) == len(logits) else logits[self.rows]

    def open(self, B: int, P: int) -> None:
        from transformers import DynamicCache

        self.cache = DynamicCache(config=self.model.config)  # layers of several kinds, as it says

    def reorder(self, rows: Tensor) -> None:
        # the one verb that all kinds of layers know; transformers calls its rows a LongTensor
        self.cache.reorder_cache(rows)  # pyright: ignore[reportArgumentType]

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        with torch.autocast(ids.device.type, self.dtype, enabled=self.dtype != self.model.dtype):
            return self.model(
                input_ids=ids,
                attention_mask=self.mask.long(),
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]


@contextmanager
def plain_layers(model, rounded: bool = False):
    """Undo, while the model samples, what its layers do in training; or round their products.

    transformers keeps the cache from layers that recompute their activations. A compiled layer
    would be traced anew for the cache, whose length is another at every step, and cuDNN's attention
    planned anew.

    Chapter: what-a-step-costs.
    """
    layers = [layer for layer in layers_of(model) if layer.training]
    for layer in layers:  # what is inside them, dropout above all, stays as it is
        layer.training = False
    try:
        products = BFloat16Products({}) if rounded else nullcontext()
        with torch.compiler.set_stance("force_eager"), without_cudnn(), products:
            yield
    finally:
        for layer in layers:
            layer.training = True


class GPT2Decoder(Decoder):
    """The same for GPT-2, its layers written out and its cache made in advance.

    Radford et al. 2019; the layers are those of `transformers.GPT2LMHeadModel`, whose weights
    it reads, or copies of them in another precision. Chapter: what-a-step-costs.
    """

    def __init__(self, model, max_new_tokens: int, dtype: torch.dtype | None = None):
        self.config, self.max_new_tokens = model.config, max_new_tokens
        self.act = model.transformer.h[0].mlp.act
        self.weights = [w.to(dtype or model.dtype) for w in self.weights_of(model)]

    @staticmethod
    def reads(model) -> bool:
        """Whether the model is a plain GPT-2: no other layers, no hooks, no dropout at work."""
        from transformers import GPT2LMHeadModel
        from transformers.pytorch_utils import Conv1D

        if type(model) is not GPT2LMHeadModel:
            return False
        c = model.config
        if (
            c.add_cross_attention
            or c.reorder_and_upcast_attn
            or not c.scale_attn_weights
            or c.scale_attn_by_inverse_layer_idx
        ):
            return False
        for m in model.modules():
            dropout = isinstance(m, torch.nn.Dropout) and m.training and m.p
            if dropout or m._forward_hooks or m._forward_pre_hooks:
                return False
        return all(
            type(block.get_submodule(name)) is Conv1D
            for block in model.transformer.h
            for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
        )

    @staticmethod
    def weights_of(model) -> list[Tensor]:
        """Three tables, twelve tensors for each layer, and the last norm."""
        t = model.transformer
        layers = [
            m
            for b in t.h
            for m in (b.ln_1, b.attn.c_attn, b.attn.c_proj, b.ln_2, b.mlp.c_fc, b.mlp.c_proj)
        ]
        return [
            w.detach()
            for w in (
                t.wte.weight,
                t.wpe.weight,
                model.lm_head.weight,
                *(x for m in (*layers, t.ln_f) for x in (m.weight, m.bias)),
            )
        ]

    def open(self, B: int, P: int) -> None:
        c = self.config
        self.used = 0
        self.cache = [
            self.weights[0].new_empty(2, B, c.n_head, P + self.max_new_tokens, c.n_embd // c.n_head)
            for _ in range(c.n_layer)
        ]  # keys and values

    def reorder(self, rows: Tensor) -> None:
        for i, old in enumerate(self.cache):
            new = old.new_empty(2, len(rows), *old.shape[2:])
            new[:, :, :, : self.used] = old[:, rows, :, : self.used]
            self.cache[i] = new

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        T = ids.shape[1]
        mask = self.mask[:, None, None, :]  # (B, 1, 1, slots)
        if T > 1:  # the prompt: each token sees those before it, and padding sees itself
            past = torch.ones(T, T, dtype=torch.bool, device=ids.device).tril()
            mask = mask & past | torch.eye(T, dtype=torch.bool, device=ids.device)
        elif self.even:  # no padding anywhere: nothing to mask
            mask = None
        start, self.used = self.used, self.used + T

        def remember(cache: Tensor, kv: Tensor) -> Tensor:
            cache[:, :, :, start : self.used] = kv
            return cache[:, :, :, : self.used]

        return F.linear(self.hidden_after(ids, positions, mask, remember), self.weights[2])

    def hidden_after(self, ids: Tensor, positions: Tensor, mask: Tensor | None, remember) -> Tensor:
        """GPT-2 but for its output layer: (B, T) tokens to the last one's hidden state, (B, E).

        `remember(cache, kv)` writes the keys and values of these tokens, (2, B, heads, T, ·), into
        the cache of a layer, and returns those that they may attend to.
        """
        c, (B, T) = self.config, ids.shape
        embed, place, _, *weights, last_w, last_b = self.weights
        norm = partial(F.layer_norm, normalized_shape=(c.n_embd,), eps=c.layer_norm_epsilon)
        x = (F.embedding(ids, embed) + F.embedding(positions, place)).flatten(0, 1)
        for i, cache in enumerate(self.cache):  # x is (B·T, E): one product for all rows
            w1, b1, mix, mix_b, join, join_b, w2, b2, up, up_b, down, down_b = weights[
                12 * i : 12 * i + 12
            ]
            qkv = torch.addmm(mix_b, norm(x, weight=w1, bias=b1), mix)
            qkv = qkv.view(B, T, 3, c.n_head, -1).permute(2, 0, 3, 1, 4)
            keys, values = remember(cache, qkv[1:])
            seen = F.scaled_dot_product_attention(qkv[0], keys, values, mask)
            x = x + torch.addmm(join_b, seen.transpose(1, 2).reshape(B * T, -1), join)
            inner = self.act(torch.addmm(up_b, norm(x, weight=w2, bias=b2), up))
            x = x + torch.addmm(down_b, inner, down)
        return norm(x.view(B, T, -1)[:, -1], weight=last_w, bias=last_b)


class FixedDecoder(GPT2Decoder):
    """A whole step, from the draw to the next logits, as one program with nothing left to decide.

    On a GPU the host takes longer to launch the kernels of a step than they take to run. So the
    step has one shape: rows that ended are carried along, slots of the cache are attended to behind
    a mask, and the place to write to is a tensor. CUDA can record such a program as a graph and
    replay it by a single launch. Only the slots so far are attended to, rounded up to a block;
    for each of these widths, at most eight, the step is recorded once. The host fills the noise
    and, every `CHECK` steps, asks whether a row still writes. On a CPU the same program runs as it
    stands, which is how it is tested. Chapter: what-a-step-costs.

    Parameters
    ----------
    model : transformers.GPT2LMHeadModel
    B, P, T : int
        Rows, slots for the prompt, and new tokens.
    temperature : float
    greedy : bool
    ends : tuple of int
        Token ids that end a row.
    pad : int
        Token id behind it.
    dtype : torch.dtype, optional
    """

    CHECK = 8  # steps between two looks at whether all rows have ended
    made: WeakKeyDictionary = WeakKeyDictionary()  # model -> the decoders made for it last

    def __init__(
        self,
        model,
        B: int,
        P: int,
        T: int,
        temperature: float,
        greedy: bool,
        ends: tuple[int, ...],
        pad: int,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(model, T, dtype)
        self.P, self.temperature, self.greedy, self.pad = P, temperature, greedy, pad
        self.block = 16 * math.ceil(T / 128)  # of slots; attention is fastest on multiples of 16
        slots = self.width(T - 1)
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}  # by the width that they attend to
        device, V = model.device, len(self.weights[2])
        self.ends = torch.tensor(ends, device=device)
        self.open(B, slots - T)
        for cache in self.cache:
            cache.zero_()  # a masked slot weighs 0, and 0 times what lay there may be nan
        self.mask = self.weights[0].new_zeros(B, slots)  # what is added to the scores: 0 or -inf
        self.slot, self.column = (torch.zeros(1, dtype=torch.long, device=device) for _ in range(2))
        self.positions = torch.zeros(B, 1, dtype=torch.long, device=device)
        self.going = torch.zeros(B, dtype=torch.bool, device=device)
        self.logits = self.weights[0].new_zeros(B, V)
        self.noise = torch.ones(B, V, device=device)
        self.tokens, self.written = (
            torch.zeros(B, T, dtype=torch.long, device=device) for _ in range(2)
        )
        self.logprobs, self.entropies = (torch.zeros(B, T, device=device) for _ in range(2))

    @staticmethod
    def suits(model) -> bool:
        """Whether launches are what a step of a GPT-2 waits for: on a GPU."""
        return model.device.type == "cuda"

    def width(self, t: int) -> int:
        """How many slots the step attends to that draws new token `t`, counted from 0."""
        return self.P + self.block * (t // self.block + 1)

    @classmethod
    def get(cls, model, *settings) -> FixedDecoder:
        """One that was made before for the same sizes, with the weights of now; or a new one."""
        made = cls.made.setdefault(model, {})
        decoder = made.pop(settings, None)
        while len(made) > 1:  # two at most: one for training and one for evaluation
            del made[next(iter(made))]
        decoder = made[settings] = decoder or cls(model, *settings)
        for mine, now in zip(decoder.weights, cls.weights_of(model)):
            if mine.data_ptr() != now.data_ptr():  # a copy in another precision
                mine.copy_(now)
        return decoder

    def load(self, prompts: GPT2Decoder, rows: Tensor, logits: Tensor) -> None:
        """Begin behind prompts that were read: row i continues row `rows[i]` of `prompts`."""
        for state in (self.written, self.logprobs, self.entropies, self.column):
            state.zero_()
        left = self.P - prompts.used  # slots that no prompt reaches
        for mine, read in zip(self.cache, prompts.cache):
            mine[:, :, :, left : self.P] = read[:, rows, :, : prompts.used]
        self.mask.fill_(-math.inf)
        self.mask[:, left : self.P].masked_fill_(prompts.mask[rows], 0.0)
        self.positions.copy_(prompts.positions[rows, -1:] + 1)
        self.logits.copy_(logits[rows])
        self.tokens.fill_(self.pad)
        self.slot.fill_(self.P)
        self.going.fill_(True)

    def advance(self, width: int | None = None) -> None:
        """Draw a token in every row, write it down, and compute the logits of the next.

        It may attend to the first `width` slots; to all if it is not given.
        """
        logprobs = log_probabilities(self.logits, self.temperature)
        probabilities = logprobs.exp()
        token = (logprobs if self.greedy else probabilities / self.noise).argmax(dim=-1)
        token = torch.where(self.going, token, self.pad)
        chosen = logprobs.gather(1, token[:, None])[:, 0]
        entropy = -(probabilities * logprobs).sum(dim=-1)
        for table, value in (
            (self.tokens, token),
            (self.written, self.going.long()),
            (self.logprobs, torch.where(self.going, chosen, 0.0)),
            (self.entropies, torch.where(self.going, entropy, 0.0)),
        ):
            table.index_copy_(1, self.column, value[:, None])
        self.going &= (token[:, None] != self.ends).all(dim=1)
        self.mask.index_fill_(1, self.slot, 0.0)

        def remember(cache: Tensor, kv: Tensor) -> Tensor:
            return cache.index_copy_(3, self.slot, kv)[:, :, :, :width]

        seen = self.mask[:, None, None, :width]
        hidden = self.hidden_after(token[:, None], self.positions, seen, remember)
        torch.mm(hidden, self.weights[2].t(), out=self.logits)
        for place in (self.slot, self.column, self.positions):
            place += 1

    def record(self) -> None:
        """Turn `advance` into CUDA graphs, one for each width."""
        graphs = {}
        with torch.cuda.device(self.logits.device):
            aside, pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
            for width in range(self.width(0), self.mask.shape[1] + 1, self.block):
                aside.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(aside):
                    self.rehearse(width)
                graph = graphs[width] = torch.cuda.CUDAGraph()
                # it waits for the rehearsal, and lets other threads go on, such as NCCL's; all
                # graphs share a pool, as nothing that they put there outlives a step
                with torch.cuda.graph(graph, pool, aside, capture_error_mode="thread_local"):
                    self.advance(width)
        self.graphs = graphs  # only now: one that broke off would be replayed as far as it came

    def rehearse(self, width: int | None = None) -> None:
        """Let every kernel of a step be chosen, as they must be before a graph is recorded."""
        for _ in range(3):
            self.going.fill_(True)  # an ended row reads `pad`, which need not be a row of the model
            for place in (self.column, self.slot, self.positions):
                place.zero_()
            self.advance(width)

    def run(
        self, prompts: GPT2Decoder, rows: Tensor, logits: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """All tokens of all rows; what `step_by_step` returns."""
        if not self.graphs and self.logits.is_cuda:
            self.record()
        self.load(prompts, rows, logits)
        for t in range(self.max_new_tokens):
            if not self.greedy:
                self.noise.exponential_(generator=generator)
            width = self.width(t)
            self.graphs[width].replay() if self.graphs else self.advance(width)
            if (t + 1) % self.CHECK == 0 and not self.going.any():
                break
        used = int(self.written.any(dim=0).sum())
        tokens, mask, logprobs, entropies = (
            table[:, :used].clone()
            for table in (self.tokens, self.written, self.logprobs, self.entropies)
        )
        return tokens, mask, logprobs, entropies, ~self.going


def log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """log π of every next token at a temperature, in float32; shape as `logits`, in nats.

    Chapter: what-a-step-costs.
    """
    logits = logits if temperature == 1.0 else logits.float() / temperature
    return torch.log_softmax(logits, dim=-1, dtype=torch.float32)


def draw(
    probabilities: Tensor, running: Tensor, B: int, generator: torch.Generator | None
) -> Tensor:
    """A token for each running row, (R,), from its probabilities, (R, V).

    All B rows take random numbers, so that what one draws does not depend on which others have
    ended. Over a small vocabulary a row takes V of them: the largest p / Exp(1) is a draw from p.
    Over a large one they would cost a processor as much as a layer, and a row takes one: where it
    falls on the cumulative sums. A GPU takes V always, as its recorded step does, which must draw
    the same. Chapter: what-a-step-costs.
    """
    V = probabilities.shape[-1]
    if V <= SMALL_VOCABULARY or probabilities.device.type != "cpu":
        noise = torch.empty((B, V), device=probabilities.device).exponential_(generator=generator)
        return (probabilities / (noise[running] if len(running) < B else noise)).argmax(dim=-1)
    steps = probabilities.cumsum(dim=-1)
    place = torch.rand((B, 1), device=probabilities.device, generator=generator)[running]
    token = torch.searchsorted(steps, place * steps[:, -1:], right=True)[:, 0]
    return token.clamp(max=V - 1)
