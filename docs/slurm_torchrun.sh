#!/bin/bash
# One run on several machines, gone on with after preemption and time limits:
#   sbatch --nodes 2 --gpus-per-node 8 docs/slurm_torchrun.sh experiment=paper_v1/lsp run_dir=outputs/mine
# Submit it from the repository's root, with its virtual environment active; give run_dir=.
#SBATCH --job-name=language-self-play
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR2@300
set -u

# Five minutes before the end every process of the run is told to save after its step; then the job
# waits for its next turn, in which resume=auto finds the run again. torchrun itself would kill its
# processes 30 seconds after a signal, so the signal goes to them and not to it.
ask_to_save() {
  srun --overlap pkill -USR2 -f -- '[-]u run.py'
  wait
  scontrol requeue "$SLURM_JOB_ID"
}
trap ask_to_save USR2

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun \
  --nnodes "$SLURM_NNODES" \
  --nproc_per_node "${SLURM_GPUS_ON_NODE:-1}" \
  --rdzv_id "$SLURM_JOB_ID" \
  --rdzv_backend c10d \
  --rdzv_endpoint "$head:29500" \
  run.py resume=auto "$@" &
wait
