/* Batches of AES-GCM packets through the library's direct functions: one call from Rust for many packets.
 *
 * The direct functions keep no state in the manager, so one manager serves all threads. */

#include <stdint.h>
#include <stddef.h>
#include <string.h>
#include <intel-ipsec-mb.h>

#define TAG 16
/* The library writes whole lines of a cache; one that straddles two of them takes twice as long. */
#define ALIGNED __attribute__((aligned(64)))

struct mb_job {
    const uint8_t *nonce; /* 12 octets */
    const uint8_t *aad;
    uint64_t aad_len;
    uint8_t *data;
    uint64_t len;
    uint8_t *tag; /* TAG octets */
};

IMB_MGR *mb_manager(void)
{
    IMB_MGR *manager = alloc_mb_mgr(0);
    if (manager == NULL)
        return NULL;
    init_mb_mgr_auto(manager, NULL);
    if (imb_get_errno(manager) != 0 || manager->gcm128_enc == NULL || manager->gcm256_dec == NULL) {
        free_mb_mgr(manager);
        return NULL;
    }
    return manager;
}

size_t mb_key_len(void)
{
    return sizeof(struct gcm_key_data);
}

int mb_key(IMB_MGR *manager, struct gcm_key_data *to, const uint8_t *key, uint32_t bits)
{
    switch (bits) {
    case 128: IMB_AES128_GCM_PRE(manager, key, to); return 1;
    case 192: IMB_AES192_GCM_PRE(manager, key, to); return 1;
    case 256: IMB_AES256_GCM_PRE(manager, key, to); return 1;
    default: return 0;
    }
}

static aes_gcm_enc_dec_t function_of(const IMB_MGR *manager, uint32_t bits, int seal)
{
    switch (bits) {
    case 128: return seal ? manager->gcm128_enc : manager->gcm128_dec;
    case 192: return seal ? manager->gcm192_enc : manager->gcm192_dec;
    default: return seal ? manager->gcm256_enc : manager->gcm256_dec;
    }
}

/* The first lines of the packet after the next: the cipher itself hides the latency of the others. */
static void ahead(const struct mb_job *jobs, size_t at, size_t count)
{
    if (at < count) {
        const uint8_t *data = jobs[at].data;
        __builtin_prefetch(data, 1);
        __builtin_prefetch(data + 64, 1);
        __builtin_prefetch(data + 128, 1);
        __builtin_prefetch(data + 192, 1);
    }
}

void mb_seal(const IMB_MGR *manager, const struct gcm_key_data *key, uint32_t bits, const struct mb_job *jobs,
             size_t count)
{
    const aes_gcm_enc_dec_t seal = function_of(manager, bits, 1);
    struct gcm_context_data context ALIGNED;
    for (size_t i = 0; i < count; i++) {
        const struct mb_job *job = &jobs[i];
        ahead(jobs, i + 1, count);
        seal(key, &context, job->data, job->data, job->len, job->nonce, job->aad, job->aad_len,
             job->tag, TAG);
    }
}

void mb_open(const IMB_MGR *manager, const struct gcm_key_data *key, uint32_t bits, const struct mb_job *jobs,
             size_t count, uint8_t *ok)
{
    const aes_gcm_enc_dec_t open = function_of(manager, bits, 0);
    struct gcm_context_data context ALIGNED;
    uint64_t made[2] ALIGNED, sent[2];
    for (size_t i = 0; i < count; i++) {
        const struct mb_job *job = &jobs[i];
        ahead(jobs, i + 1, count);
        open(key, &context, job->data, job->data, job->len, job->nonce, job->aad, job->aad_len, (uint8_t *)made,
             TAG);
        memcpy(sent, job->tag, TAG);
        /* No branch depends on which octet differs. */
        ok[i] = ((made[0] ^ sent[0]) | (made[1] ^ sent[1])) == 0;
    }
}
