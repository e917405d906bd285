"""Reinforcement learning from human feedback, small enough to read.

Eight rooms; none imports one below it on this map. Mathematics, models and algorithms are under
2,500 lines of code, docstrings and comments apart; the machinery is under 1,200 more, and may be
skipped at first, as may the families until you bring a model of your own::

    mathematics   tilt              the exact optimum on finite sets
                  kl                divergence, exact and estimated; adaptive beta
                  advantages        masked statistics, GAE, group baselines
                  losses            every loss, a function of tensors and a mask
                  bradley_terry     comparisons: scores that fit them, Borda, agreement
                  calibration       whether probabilities mean what they say
                  intervals         of a share of trials, and of a mean of few values
                  overoptimization  gold reward against distance: Gao's forms, fitted
                  checks            of arguments, with errors that name them
    machinery     settings          how it is computed, and checks of settings
                  machine           the tables and the optimiser steps of a loop, however computed
                  optimization      Adam, gradients added up, clipped, and refused if not finite
                  preparation       models frozen, without dropout, recomputed, compiled
                  microbatches      a batch in parts that fit into memory
                  precision         products in bfloat16 over float32 weights
                  processes         a batch shared out under accelerate launch
                  calling           the user's functions, with copies, awaited where they must be
                  decoding          one token a row at a time, through a cache
                  checkpoints       whole, or not there
                  memory            bytes of weights, gradients, optimiser and activations
    families      support           which architectures can be trained, and the proof of each run
                  loading           weights in float32, whatever they were saved in
                  special_tokens    what begins a prompt, ends a completion and pads both
                  hub               whether it answers, asked once and briefly
                  gguf_files        a model in one file of llama.cpp, as an ordinary one
                  smollm2           a real chat model, with a hub or without
                  adapters          LoRA: a small part is trained, the rest is the reference
                  growth            a small GPT-2 made a larger one that says the same
    models        tokens            text as tokens, and the log-probability of each
                  policy            a causal language model at a scale
                  reward_model      trunk and scalar head; critic
                  rollout           a batch of completions, with log-probabilities
                  rewards           one kind of callable: learned, or several as one
    worlds        letters           prompts, authors, annotators, and a gold utility
                  sums              additions with a verifier, strict or hackable
                  reward_sources    verifiers, rules, judges, penalties
                  notes             short English notes for a real chat model, and five checks
                  calculator        a tool on longer sums, whose tokens are not the policy's
                  files             tables from the hub or from files, as people have them
                  dialogues         messages as text, by a model's own chat template
                  data              real preferences, demonstrations, labels and prompts
                  labels            comparisons made by hand, in a file that is only added to
                  tables            a dataset as a loop reads it
                  lengths           which rows fit the context of a model
    algorithms    sft, reward_training, ppo, shared_trunk, grpo, variants, dpo, best_of_n
                                    one file each
                  loop              stepping, stopping and going on, for all of them
    seeing        plots, widgets    figures and interactive demos
                  tables, drawings  of results and of processes, as HTML and as text
                  word_scores       what each word of a completion does to its score
                  engine            a small GPT-2 and GRPO for a page, in C and JavaScript
    running       artifacts         shipped checkpoints, and how each is rebuilt
                  evaluation        held-out measurements with their errors
                  comparison        which of two is better, and how sure that is
                  log               what a run leaves behind, in JSON lines
                  model_folder      a real model as a checkpoint folder
                  command_line, commands, report
                                    python -m rlhf_lib --help

`import rlhf_lib` loads none of these; import what you use, such as
`from rlhf_lib.algorithms import PPO, PPOConfig`. The folder works as a bare copy, without being
installed.
"""

__version__ = "0.1.0"
