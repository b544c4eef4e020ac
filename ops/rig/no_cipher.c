/* Replaces the AES-GCM functions of Intel's library in a process (LD_PRELOAD) by functions that leave the data as it is and
 * write a tag of zeros: what is measured then is everything but the cipher. For benchmarks; it protects nothing. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <intel-ipsec-mb.h>
#include <string.h>

static void nothing(const struct gcm_key_data *key, struct gcm_context_data *context, uint8_t *out, uint8_t const *in,
                    uint64_t len, const uint8_t *iv, uint8_t const *aad, uint64_t aad_len, uint8_t *tag, uint64_t tag_len)
{
    (void)key, (void)context, (void)iv, (void)aad, (void)aad_len;
    if (out != in)
        memmove(out, in, len);
    memset(tag, 0, tag_len);
}

void init_mb_mgr_auto(IMB_MGR *manager, IMB_ARCH *arch)
{
    void (*real)(IMB_MGR *, IMB_ARCH *);
    *(void **)&real = dlsym(RTLD_NEXT, "init_mb_mgr_auto");
    real(manager, arch);
    manager->gcm128_enc = manager->gcm128_dec = nothing;
    manager->gcm192_enc = manager->gcm192_dec = nothing;
    manager->gcm256_enc = manager->gcm256_dec = nothing;
}
