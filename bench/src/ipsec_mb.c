/* Intel's multi-buffer library, batch in, batch out: the bench's contender. */
#include <intel-ipsec-mb.h>
#include <stddef.h>
#include <stdint.h>

struct ringspan_mb_job {
	const uint8_t *key;
	const uint8_t *nonce;
	const uint8_t *src;
	uint8_t *dst;
	uint64_t len;
	uint8_t *tag;
};

IMB_MGR *ringspan_mb_new(void)
{
	IMB_ARCH arch = IMB_ARCH_NONE;
	IMB_MGR *manager = alloc_mb_mgr(0);

	if (manager == NULL)
		return NULL;
	init_mb_mgr_auto(manager, &arch);
	if (arch == IMB_ARCH_NONE) {
		free_mb_mgr(manager);
		return NULL;
	}
	return manager;
}

void ringspan_mb_free(IMB_MGR *manager)
{
	free_mb_mgr(manager);
}

/* Runs all jobs and returns how many were completed. */
size_t ringspan_mb_run(IMB_MGR *manager, const struct ringspan_mb_job *jobs, size_t count,
		       int seal)
{
	size_t completed = 0;

	for (size_t i = 0; i < count; i++) {
		IMB_JOB *job = IMB_GET_NEXT_JOB(manager);

		job->cipher_mode = IMB_CIPHER_CHACHA20_POLY1305;
		job->hash_alg = IMB_AUTH_CHACHA20_POLY1305;
		job->cipher_direction = seal ? IMB_DIR_ENCRYPT : IMB_DIR_DECRYPT;
		job->chain_order = seal ? IMB_ORDER_CIPHER_HASH : IMB_ORDER_HASH_CIPHER;
		job->enc_keys = jobs[i].key;
		job->dec_keys = jobs[i].key;
		job->key_len_in_bytes = 32;
		job->iv = jobs[i].nonce;
		job->iv_len_in_bytes = 12;
		job->u.CHACHA20_POLY1305.aad = NULL;
		job->u.CHACHA20_POLY1305.aad_len_in_bytes = 0;
		job->src = jobs[i].src;
		job->dst = jobs[i].dst;
		job->cipher_start_src_offset_in_bytes = 0;
		job->msg_len_to_cipher_in_bytes = jobs[i].len;
		job->hash_start_src_offset_in_bytes = 0;
		job->msg_len_to_hash_in_bytes = jobs[i].len;
		job->auth_tag_output = jobs[i].tag;
		job->auth_tag_output_len_in_bytes = 16;

		job = IMB_SUBMIT_JOB_NOCHECK(manager);
		while (job != NULL) {
			completed += job->status == IMB_STATUS_COMPLETED;
			job = IMB_GET_COMPLETED_JOB(manager);
		}
	}
	for (IMB_JOB *job; (job = IMB_FLUSH_JOB(manager)) != NULL;)
		completed += job->status == IMB_STATUS_COMPLETED;
	return completed;
}
