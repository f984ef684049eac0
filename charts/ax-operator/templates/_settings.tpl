{{/* The operator's settings file; its keys are those of ax_operator.plan.world.Settings. */}}
{{- define "ax.settings" -}}
namespace: {{ .Release.Namespace | quote }}
engines_image: {{ include "ax.image" (dict "root" $ "name" "ax-engines") | quote }}
pull_policy: {{ .Values.image.pullPolicy | quote }}
pull_secrets: {{ toJson .Values.imagePullSecrets }}
toolchains:
{{- range .Values.toolchains }}
  - name: {{ .name | quote }}
    {{- if .image }}
    image: {{ .image | quote }}
    {{- else }}
    image: {{ include "ax.image" (dict "root" $ "name" (required (printf "toolchains: %s needs `repository` or `image`" .name) .repository)) | quote }}
    {{- end }}
    backends: {{ toJson .backends }}
    {{- with .tensorrtLlm }}
    tensorrt_llm: {{ . | quote }}
    {{- end }}
    {{- with .triton }}
    triton: {{ . | quote }}
    {{- end }}
    gpu: {{ .gpu | default false }}
    {{- with .examples }}
    examples: {{ . | quote }}
    {{- end }}
    {{- with .modelOptimizer }}
    model_optimizer: {{ . | quote }}
    {{- end }}
{{- end }}
store:
  storage_class: {{ .Values.engineStore.storageClass | default nil | toJson }}
  size: {{ .Values.engineStore.size | quote }}
  access_mode: {{ .Values.engineStore.accessMode | quote }}
  existing_claim: {{ .Values.engineStore.existingClaim | default nil | toJson }}
engine_retention: {{ include "ax.seconds" .Values.engineRetention }}
endpoints: {{ toJson .Values.endpoints }}
allow_trust_remote_code: {{ .Values.allowTrustRemoteCode }}
bare_names: {{ toJson .Values.gateway.bareNames }}
proxy: {{ include "ax.proxy" . }}
ca_bundle: {{ .Values.caBundle | default nil | toJson }}
gpu_hour_krw: {{ .Values.gpuHourKrw }}
gateway_replicas: {{ .Values.gateway.replicas }}
drain_seconds: {{ .Values.drainSeconds }}
operator:
  workers: {{ .Values.operator.workers }}
  resync_seconds: {{ .Values.operator.resyncSeconds }}
{{- end }}

{{- define "ax.proxy" -}}
{{- $found := dict -}}
{{- with .Values.proxy.http }}{{ $_ := set $found "HTTP_PROXY" . }}{{ end -}}
{{- with .Values.proxy.https }}{{ $_ := set $found "HTTPS_PROXY" . }}{{ end -}}
{{- with .Values.proxy.noProxy }}{{ $_ := set $found "NO_PROXY" . }}{{ end -}}
{{- toJson $found -}}
{{- end }}
