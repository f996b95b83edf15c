"""Names of tensors that several families share, by our parameters: safetensors of Llama and GPT-2, and GGUF."""

HF_NAMES = {
    "embedding": "embed_tokens.weight",
    "unembedding": "lm_head.weight",
    "norm_final.scale": "norm.weight",
    "layers.norm_attn.scale": "layers.{}.input_layernorm.weight",
    "layers.norm_mlp.scale": "layers.{}.post_attention_layernorm.weight",
    "layers.norm_q.scale": "layers.{}.self_attn.q_norm.weight",
    "layers.norm_k.scale": "layers.{}.self_attn.k_norm.weight",
    "layers.w_q": "layers.{}.self_attn.q_proj.weight",
    "layers.w_k": "layers.{}.self_attn.k_proj.weight",
    "layers.w_v": "layers.{}.self_attn.v_proj.weight",
    "layers.w_o": "layers.{}.self_attn.o_proj.weight",
    "layers.b_q": "layers.{}.self_attn.q_proj.bias",
    "layers.b_k": "layers.{}.self_attn.k_proj.bias",
    "layers.b_v": "layers.{}.self_attn.v_proj.bias",
    "layers.b_o": "layers.{}.self_attn.o_proj.bias",
    "layers.w_gate": "layers.{}.mlp.gate_proj.weight",
    "layers.w_in": "layers.{}.mlp.up_proj.weight",
    "layers.w_out": "layers.{}.mlp.down_proj.weight",
    "layers.b_gate": "layers.{}.mlp.gate_proj.bias",
    "layers.b_in": "layers.{}.mlp.up_proj.bias",
    "layers.b_out": "layers.{}.mlp.down_proj.bias",
}
# Buffers of rotary positions, of each layer or of the model, which older versions of transformers saved. They are
# ignored in every family.
HF_IGNORED = {r"(.+\.)?rotary_emb(_local)?\.((\w+_)?inv_freq|cos_cached|sin_cached)": "computed from the config"}
HF_TIED = {"lm_head.weight": "embed_tokens.weight"}
# GPT-2 and its descendants
GPT_NAMES = {
    "embedding": "wte.weight",
    "unembedding": "lm_head.weight",
    "positions": "wpe.weight",
    "norm_final.scale": "ln_f.weight",
    "norm_final.bias": "ln_f.bias",
    "layers.norm_attn.scale": "h.{}.ln_1.weight",
    "layers.norm_attn.bias": "h.{}.ln_1.bias",
    "layers.norm_mlp.scale": "h.{}.ln_2.weight",
    "layers.norm_mlp.bias": "h.{}.ln_2.bias",
}

GGUF_NAMES = {
    "embedding": "token_embd.weight",
    "unembedding": "output.weight",
    "norm_final.scale": "output_norm.weight",
    "norm_final.bias": "output_norm.bias",
    "layers.norm_attn.scale": "blk.{}.attn_norm.weight",
    "layers.norm_attn.bias": "blk.{}.attn_norm.bias",
    "layers.norm_mlp.scale": "blk.{}.ffn_norm.weight",
    "layers.norm_mlp.bias": "blk.{}.ffn_norm.bias",
    "layers.norm_attn_out.scale": "blk.{}.post_attention_norm.weight",
    "layers.norm_mlp_out.scale": "blk.{}.post_ffw_norm.weight",
    "layers.norm_q.scale": "blk.{}.attn_q_norm.weight",
    "layers.norm_k.scale": "blk.{}.attn_k_norm.weight",
    "layers.w_q": "blk.{}.attn_q.weight",
    "layers.w_k": "blk.{}.attn_k.weight",
    "layers.w_v": "blk.{}.attn_v.weight",
    "layers.w_o": "blk.{}.attn_output.weight",
    "layers.b_q": "blk.{}.attn_q.bias",
    "layers.b_k": "blk.{}.attn_k.bias",
    "layers.b_v": "blk.{}.attn_v.bias",
    "layers.b_o": "blk.{}.attn_output.bias",
    "layers.w_gate": "blk.{}.ffn_gate.weight",
    "layers.w_in": "blk.{}.ffn_up.weight",
    "layers.w_out": "blk.{}.ffn_down.weight",
    "layers.b_gate": "blk.{}.ffn_gate.bias",
    "layers.b_in": "blk.{}.ffn_up.bias",
    "layers.b_out": "blk.{}.ffn_down.bias",
}
