"""The untrained pipeline: Stable Diffusion 3.5's own classes with small numbers, and tokenizers for the captions."""

from __future__ import annotations

import io
import json
import string
from pathlib import Path

import sentencepiece
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from diffusers.models.resnet import ResnetBlock2D
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerBase,
    T5Config,
    T5EncoderModel,
)

from aquatint_pipelines.mini.recipe import ModelRecipe

LATENT_CHANNELS = 16
VAE_SCALE_FACTOR = 8
PATCH_SIZE = 2
_INITIAL_LOG_VARIANCE = -6.0


def build_vae(recipe: ModelRecipe) -> AutoencoderKL:
    """Build an untrained 16-channel f=8 autoencoder without quant convolutions, as in SD3.5."""
    levels = len(recipe.vae_block_out_channels)
    vae = AutoencoderKL(
        block_out_channels=tuple(recipe.vae_block_out_channels),
        layers_per_block=recipe.vae_layers_per_block,
        latent_channels=LATENT_CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        force_upcast=False,
    )
    # Untrained, the posterior's noise (variance 1) would drown the latents; start it at exp(-6).
    torch.nn.init.constant_(vae.encoder.conv_out.bias[LATENT_CHANNELS:], _INITIAL_LOG_VARIANCE)
    if recipe.vae_zero_residuals:
        _zero_residuals(vae)
    return vae


def _zero_residuals(vae: AutoencoderKL) -> None:
    for block in vae.modules():
        if isinstance(block, ResnetBlock2D):
            for weight in block.conv2.parameters():
                torch.nn.init.zeros_(weight)


def build_transformer(recipe: ModelRecipe, image_size: int) -> SD3Transformer2DModel:
    """Build an untrained MMDiT with dual attention in its first layers and RMS-normalised queries and keys."""
    grid = image_size // VAE_SCALE_FACTOR // PATCH_SIZE
    return SD3Transformer2DModel(
        sample_size=image_size // VAE_SCALE_FACTOR,
        patch_size=PATCH_SIZE,
        in_channels=LATENT_CHANNELS,
        num_layers=recipe.transformer_layers,
        attention_head_dim=recipe.attention_head_dim,
        num_attention_heads=recipe.num_attention_heads,
        caption_projection_dim=recipe.attention_head_dim * recipe.num_attention_heads,
        joint_attention_dim=2 * recipe.text_hidden_size,
        pooled_projection_dim=2 * recipe.text_hidden_size,
        out_channels=LATENT_CHANNELS,
        pos_embed_max_size=2 * grid,
        dual_attention_layers=tuple(recipe.dual_attention_layers),
        qk_norm="rms_norm",
    )


def build_text_encoders(
    recipe: ModelRecipe, clip_tokenizer: PreTrainedTokenizerBase, t5_tokenizer: PreTrainedTokenizerBase
) -> tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection, T5EncoderModel]:
    """Build two CLIP text encoders and a T5 encoder, untrained, for the given vocabularies."""
    width = recipe.text_hidden_size

    def clip(activation: str) -> CLIPTextModelWithProjection:
        return CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=len(clip_tokenizer),
                hidden_size=width,
                intermediate_size=4 * width,
                projection_dim=width,
                num_hidden_layers=recipe.text_layers,
                num_attention_heads=width // 32,
                max_position_embeddings=recipe.text_tokens,
                hidden_act=activation,
                bos_token_id=clip_tokenizer.bos_token_id,
                eos_token_id=clip_tokenizer.eos_token_id,
                pad_token_id=clip_tokenizer.pad_token_id,
            )
        )

    t5 = T5EncoderModel(
        T5Config(
            vocab_size=len(t5_tokenizer),
            d_model=2 * width,
            d_ff=4 * width,
            d_kv=64,
            num_heads=width // 32,
            num_layers=recipe.text_layers,
            feed_forward_proj="gated-gelu",
            pad_token_id=t5_tokenizer.pad_token_id,
            eos_token_id=t5_tokenizer.eos_token_id,
            is_encoder_decoder=False,
            use_cache=False,
        )
    )
    # SD3.5 pairs CLIP-L (quick_gelu) with OpenCLIP-G (gelu).
    return clip("quick_gelu"), clip("gelu"), t5


def train_tokenizers(sentences: list[str], recipe: ModelRecipe, folder: Path) -> None:
    """Train a byte-level BPE (CLIP) and a unigram (T5) tokenizer and save them under ``folder`` as diffusers does."""
    _save_clip_tokenizer(sentences, recipe, folder / "tokenizer")
    _save_clip_tokenizer(sentences, recipe, folder / "tokenizer_2")
    _save_t5_tokenizer(sentences, recipe, folder / "tokenizer_3")


def _save_clip_tokenizer(sentences: list[str], recipe: ModelRecipe, folder: Path) -> None:
    bos, eos = "<|startoftext|>", "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE(unk_token=eos, end_of_word_suffix="</w>", continuing_subword_prefix=""))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    # CLIP's own pre-tokenisation (openai/CLIP simple_tokenizer.py), then bytes.
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size,
        special_tokens=[bos, eos],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    _add_final_bytes(tokenizer)
    ids = {token: tokenizer.token_to_id(token) for token in (bos, eos)}
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A {eos}", special_tokens=list(ids.items()))
    special = {"bos_token": bos, "eos_token": eos, "unk_token": eos, "pad_token": eos}
    _save_tokenizer(tokenizer, folder, name="CLIPTokenizer", length=recipe.text_tokens, special=special)


def _add_final_bytes(tokenizer: Tokenizer) -> None:
    """Give every byte an end-of-word form, so that no text at all becomes the unknown (and end-of-text) token."""
    state = json.loads(tokenizer.to_str())["model"]
    vocab = state["vocab"]
    for character in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab.setdefault(f"{character}</w>", len(vocab))
    tokenizer.model = models.BPE(
        vocab=vocab,
        merges=[tuple(pair) for pair in state["merges"]],
        unk_token=state["unk_token"],
        end_of_word_suffix="</w>",
        continuing_subword_prefix="",
    )


def _save_t5_tokenizer(sentences: list[str], recipe: ModelRecipe, folder: Path) -> None:
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    # T5's own trainer: the one in ``tokenizers`` drops the most frequent words.
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="unigram",
        vocab_size=2 * recipe.vocab_size,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        required_chars=string.ascii_letters + string.digits + string.punctuation,
        num_threads=1,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    vocab = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(len(pieces))]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=pieces.unk_id()))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    _save_tokenizer(tokenizer, folder, name="T5Tokenizer", length=recipe.text_tokens, special=special)


def _save_tokenizer(tokenizer: Tokenizer, folder: Path, *, name: str, length: int, special: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": name, "model_max_length": length, "extra_ids": 0, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    # Saved once more by transformers: its classes rebuild part of the pipeline, and what they do is what counts.
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)


def load_tokenizers(folder: Path) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """Load the CLIP and the T5 tokenizer saved by ``train_tokenizers``."""
    return AutoTokenizer.from_pretrained(folder / "tokenizer"), AutoTokenizer.from_pretrained(folder / "tokenizer_3")


def assemble(
    folder: Path,
    *,
    vae: AutoencoderKL,
    transformer: SD3Transformer2DModel,
    text_encoders: tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection, T5EncoderModel],
    shift: float,
) -> StableDiffusion3Pipeline:
    """Join components and the tokenizers under ``folder`` into one pipeline."""
    clip_tokenizer, t5_tokenizer = load_tokenizers(folder)
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=vae,
        text_encoder=text_encoders[0],
        tokenizer=clip_tokenizer,
        text_encoder_2=text_encoders[1],
        tokenizer_2=clip_tokenizer,
        text_encoder_3=text_encoders[2],
        tokenizer_3=t5_tokenizer,
    )
