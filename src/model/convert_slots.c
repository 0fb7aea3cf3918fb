#include "model/convert.h"
#include "base/error.h"
cot_status cot__convert_plan_slots(cot__convert *c, cot_error *err) {
    return cot__fail(err, COT_UNSUPPORTED, c->source->path, NULL, "no");
}
cot_status cot__convert_slot_job(cot__convert *c, const cot__job *job, cot_error *err) {
    return cot__fail(err, COT_UNSUPPORTED, c->source->path, NULL, "no");
}
cot_status cot__convert_new_keys(cot__convert *c, const char **arch, cot_error *err) {
    return cot__fail(err, COT_UNSUPPORTED, c->source->path, NULL, "no");
}
cot_status cot__convert_config(cot__convert *c, const char *dir, cot_error *err) {
    return cot__fail(err, COT_UNSUPPORTED, c->source->path, NULL, "no");
}
