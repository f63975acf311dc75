"""An image-text model that is no CLIP of open_clip's: tiny, random, with any number of leading tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ovseg.clip.position import resize_patches
from ovseg.clip.tokens import ATTENTION, CLASS_EMBEDDING, CLASS_TOKEN, DENSE, HEADS_ADD, POSITIONS, STREAM, Block
from ovseg.clip.tower import Tower

WIDTH, HEADS, DEPTH, PATCH, GRID, DIM = 24, 3, 7, 8, (4, 4), 16


class FakeBlock(Block, nn.Module):
    """A block whose queries, keys and values have a layer each."""

    heads, scale = HEADS, (WIDTH // HEADS) ** -0.5

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def norm(self, tokens: Tensor) -> Tensor:
        return self.before(tokens)

    def qkv(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        normed = self.norm(tokens)
        query, key, value = (layer(normed).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in self.layers[:3])
        return query, key, value

    def project(self, heads: Tensor) -> Tensor:
        return self.layers[3](heads.transpose(1, 2).flatten(2))

    def second_norm(self, tokens: Tensor) -> Tensor:
        return self.between(tokens)

    def feed_forward(self, tokens: Tensor) -> Tensor:
        return self.mlp(self.second_norm(tokens))


class FakeTower(Tower):
    """Without a class token the embedding of an image is the mean of its patches."""

    name, weights_hash, embed_dim, logit_scale = "fake", "0123456789abcdef", DIM, 50.0
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    patch_size, width, prefix, blocks, has = PATCH, WIDTH, 0, (), frozenset()

    def __init__(self, class_token: bool = False, registers: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.own_blocks = nn.ModuleList(FakeBlock() for _ in range(DEPTH))
            self.conv, self.last = nn.Conv2d(3, WIDTH, PATCH, PATCH), nn.LayerNorm(WIDTH)
            self.table = nn.Parameter(0.3 * torch.randn(GRID[0] * GRID[1], WIDTH))
            self.projection = nn.Parameter(torch.randn(WIDTH, DIM))
            self.letters = nn.Embedding(256, DIM)
            self.first = nn.Parameter(torch.randn(class_token + registers, WIDTH))
        self.prefix, self.blocks = len(self.first), list(self.own_blocks)
        more = {CLASS_TOKEN, CLASS_EMBEDDING, HEADS_ADD} if class_token else set()
        self.has = frozenset({DENSE, STREAM, ATTENTION, POSITIONS} | more)
        self.eval().requires_grad_(False)

    @property
    def position_table(self) -> Tensor:
        return self.table

    @property
    def body(self) -> list[nn.Module]:
        return [self.own_blocks]

    def text(self, texts: list[str]) -> Tensor:
        return torch.stack([self.letters(torch.tensor(list(text.encode()))).mean(0) for text in texts])

    def embed(self, images, rule, table=None, rounding=None):
        patches = self.conv(images.to(self.dtype))
        grid = (patches.shape[2], patches.shape[3])
        place = resize_patches(self.table if table is None else table, GRID, grid, rule)
        place = place.to(rounding or patches.dtype).to(patches.dtype)
        first = self.first.to(patches.dtype).expand(len(images), -1, -1)
        return torch.cat([first, patches.flatten(2).mT + place], dim=1), grid

    def patches_to_joint(self, tokens: Tensor) -> Tensor:
        return self.last(tokens) @ self.projection

    def head(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        joint = self.patches_to_joint(tokens)
        cls, patches = self.split(joint)
        return joint, patches.mean(1) if cls is None else cls.squeeze(1)

    def linear_head(self) -> tuple[nn.LayerNorm, Tensor, Tensor]:
        return self.last, self.projection, torch.zeros(DIM)
